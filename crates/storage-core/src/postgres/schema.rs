//! Declarations for diesel of the tables that are read and written row by row. `migrations/` creates the tables and
//! documents their columns. [`super::queries`] uses SQL for the hypertables, which are written through arrays and read
//! by bucket.
#![allow(missing_docs, reason = "the migrations document the columns")]

diesel::table! {
    symbols (symbol) {
        symbol -> Text,
        volume_decimals -> SmallInt,
        first_seen -> Timestamptz,
        prices -> Text,
    }
}

diesel::table! {
    dead_letters (stream, entry_id) {
        stream -> Text,
        entry_id -> Text,
        reason -> Text,
        fields -> Jsonb,
        truncated -> Bool,
        first_seen -> Timestamptz,
        requeued_at -> Nullable<Timestamptz>,
        requeued_as -> Nullable<Text>,
    }
}
