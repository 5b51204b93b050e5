//! WAL positions (log sequence numbers).

use std::fmt;
use std::str::FromStr;

use anyhow::Context;

/// Position in the WAL, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lsn(pub(crate) u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let position = text.split_once('/').and_then(|(high, low)| {
            let part = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
            Some(part(high)? << 32 | part(low)?)
        });
        position
            .map(Self)
            .with_context(|| format!("`{text}` is not a WAL position; write it as 16/B374D848"))
    }
}
