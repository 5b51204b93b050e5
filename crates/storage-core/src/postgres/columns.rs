//! Conversions of columns into the types of [`crate::domain`], and rows with a single column, which is named `value`.

use chrono::{DateTime, Utc};
use diesel::QueryableByName;
use diesel::deserialize::{FromSql, Result};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz};

use crate::domain::decimal::Decimal;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::tick::Side;

/// A timestamptz in µs since 1970, for `deserialize_as`.
#[derive(Debug)]
pub(super) struct Micros(i64);

impl FromSql<Timestamptz, Pg> for Micros {
    fn from_sql(value: PgValue<'_>) -> Result<Self> {
        DateTime::<Utc>::from_sql(value).map(|time| Self(time.timestamp_micros()))
    }
}

impl From<Micros> for i64 {
    fn from(Micros(us): Micros) -> Self {
        us
    }
}

impl FromSql<BigInt, Pg> for Revision {
    fn from_sql(value: PgValue<'_>) -> Result<Self> {
        let number = <i64 as FromSql<BigInt, Pg>>::from_sql(value)?;
        Ok(number.try_into().unwrap_or_default())
    }
}

/// A nullable timestamptz in µs since 1970, for `deserialize_as`.
#[derive(Debug)]
pub(super) struct OptionalMicros(Option<i64>);

impl FromSql<Nullable<Timestamptz>, Pg> for OptionalMicros {
    fn from_sql(value: PgValue<'_>) -> Result<Self> {
        Micros::from_sql(value).map(|time| Self(Some(time.into())))
    }

    fn from_nullable_sql(value: Option<PgValue<'_>>) -> Result<Self> {
        value.map_or(Ok(Self(None)), Self::from_sql)
    }
}

impl From<OptionalMicros> for Option<i64> {
    fn from(OptionalMicros(us): OptionalMicros) -> Self {
        us
    }
}

macro_rules! from_text {
    ($($name:ty),*) => {$(
        impl FromSql<Text, Pg> for $name {
            fn from_sql(value: PgValue<'_>) -> Result<Self> {
                Ok(<String as FromSql<Text, Pg>>::from_sql(value)?.parse()?)
            }
        }
    )*};
}

from_text!(Decimal, Symbol, Side);

#[derive(QueryableByName)]
pub(super) struct TextValue {
    #[diesel(sql_type = Text)]
    pub(super) value: String,
}

#[derive(QueryableByName)]
pub(super) struct IntegerValue {
    #[diesel(sql_type = BigInt)]
    pub(super) value: i64,
}

#[derive(QueryableByName)]
pub(super) struct BoolValue {
    #[diesel(sql_type = Bool)]
    pub(super) value: bool,
}

#[derive(QueryableByName)]
pub(super) struct TimeValue {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    value: Option<DateTime<Utc>>,
}

impl TimeValue {
    /// Returns the time in µs since 1970.
    pub(super) fn us(self) -> Option<i64> {
        self.value.map(|time| time.timestamp_micros())
    }
}
