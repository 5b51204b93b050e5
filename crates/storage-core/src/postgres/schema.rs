//! The tables that are read and written row by row, as diesel knows them. `migrations/` makes them and says what the
//! columns mean. The hypertables are written through arrays and read by bucket, in SQL, in [`super::queries`].
#![allow(missing_docs, reason = "the migrations document the columns")]

diesel::table! {
    symbols (symbol) {
        symbol -> Text,
        volume_decimals -> SmallInt,
        first_seen -> Timestamptz,
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
