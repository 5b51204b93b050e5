//! Amendments of trades, and the rules by which repetitions, corrections and busts change a trade.
//!
//! The rules make a feed repeatable: a feed that is sent again, whole or cut off anywhere, changes nothing. So what
//! equals any version that a trade ever had is a repetition. To return to an earlier version, or to count a busted
//! trade again, an amendment names the version that it `replaces`, as `aggregator-admin ticks` does.

use compact_str::CompactString;

use super::decimal::Decimal;
use super::lots::{self, Lots};
use super::rejection::Rejection;
use super::stream_id::Revision;
use super::symbol::Symbol;
use super::tick::{AcceptedTick, Side, Tick};

/// A change of an earlier trade: an entry of a tick stream of the kind `correction` or `bust`.
#[derive(Clone, Debug, PartialEq)]
pub struct Amendment {
    /// Symbol of the trade.
    pub symbol: Symbol,
    /// Event time of the trade in µs since 1970.
    pub ts_us: i64,
    /// Trade ID in its canonical form.
    pub trade_id: CompactString,
    /// The change.
    pub change: Change,
    /// Revision of the version that is replaced; without it, the change applies to the current version.
    pub replaces: Option<Revision>,
    /// Revision of the entry.
    pub revision: Revision,
}

impl Amendment {
    /// Returns the amendment with its quantity rounded to whole lots.
    ///
    /// # Errors
    /// The rejection of a quantity that does not fit the lots.
    pub fn rounded(mut self, decimals: u8) -> Result<Self, Rejection> {
        if let Change::Correction { qty, .. } = &mut self.change {
            let lots = Lots::of(*qty, decimals)
                .map_err(|error| lots::rejection(&self.symbol, *qty, Decimal::ZERO, error, decimals))?;
            *qty = Decimal::from_lots(lots.count.into(), decimals);
        }
        Ok(self)
    }

    /// Returns the trade with its corrected values, as the entry of the amendment gives them; `None` for a bust.
    pub fn corrected_tick(&self) -> Option<AcceptedTick> {
        let Change::Correction { price, qty, side } = self.change else {
            return None;
        };
        Some(AcceptedTick {
            tick: Tick {
                symbol: self.symbol.clone(),
                ts_us: self.ts_us,
                price,
                qty,
                trade_id: Some(self.trade_id.clone()),
                side,
            },
            revision: self.revision,
            origin: self.revision.stream_id(),
        })
    }

    /// Returns the value of the entry's field `kind`.
    pub fn kind(&self) -> &'static str {
        match self.change {
            Change::Correction { .. } => "correction",
            Change::Bust => "bust",
        }
    }
}

/// Change by an amendment.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The price, the quantity and, if it is given, the side are replaced.
    Correction {
        /// Price of a unit.
        price: f64,
        /// Quantity in units.
        qty: Decimal,
        /// Side of the taker.
        side: Option<Side>,
    },
    /// The trade is taken out of every candle.
    Bust,
}

/// Values of a trade that a correction may change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Values {
    /// Price of a unit.
    pub price: f64,
    /// Quantity in units, rounded to whole lots.
    pub qty: Decimal,
    /// Side of the taker.
    pub side: Option<Side>,
}

/// A version of a trade.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Version {
    /// Revision of the entry that made it.
    pub revision: Revision,
    /// Its values; `None` if the trade was busted.
    pub values: Option<Values>,
}

/// The versions of a trade, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Versions {
    earlier: Vec<Version>,
    current: Version,
}

impl Versions {
    /// Creates the versions of a trade that was not amended.
    pub fn new(revision: Revision, values: Values) -> Self {
        Self {
            earlier: Vec::new(),
            current: Version {
                revision,
                values: Some(values),
            },
        }
    }

    /// Creates the versions from a list, oldest first; `None` if it is empty.
    pub fn of(mut versions: Vec<Version>) -> Option<Self> {
        let current = versions.pop()?;
        Some(Self {
            earlier: versions,
            current,
        })
    }

    /// Returns the current version.
    pub fn current(&self) -> &Version {
        &self.current
    }

    /// Returns all versions, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Version> {
        self.earlier.iter().chain([&self.current])
    }

    /// Returns the first version.
    pub fn original(&self) -> &Version {
        self.earlier.first().unwrap_or(&self.current)
    }

    /// Checks that an entry of the same trade repeats one of its versions. The side is not compared, because not every
    /// source has it.
    ///
    /// # Errors
    /// [`Rejection::Conflict`] if its price or quantity differs from that of every version.
    pub fn repeat(&self, price: f64, qty: Decimal) -> Result<(), Rejection> {
        let mut values = self.iter().filter_map(|version| version.values);
        match values.any(|values| values.price == price && values.qty == qty) {
            true => Ok(()),
            false => Err(self.conflict()),
        }
    }

    /// Applies an amendment, whose quantity is rounded to whole lots. Returns `true` if it changes the trade.
    ///
    /// # Errors
    /// [`Rejection::Conflict`] if the trade was busted, or if the amendment replaces another version than the current
    /// one.
    pub fn amend(&mut self, amendment: &Amendment) -> Result<bool, Rejection> {
        let values = match &amendment.change {
            Change::Bust => None,
            Change::Correction { price, qty, side } => Some(Values {
                price: *price,
                qty: *qty,
                side: side.or(self.side()),
            }),
        };
        let is_repeated = |version: &Version| version.revision == amendment.revision || version.values == values;
        match amendment.replaces {
            Some(replaced) if replaced == self.current.revision => {}
            Some(replaced) if self.was_replaced(replaced, values) => return Ok(false),
            None if self.iter().any(is_repeated) => return Ok(false),
            None if self.current.values.is_some() => {}
            _ => return Err(self.conflict()),
        }
        let revision = amendment.revision;
        self.earlier
            .push(std::mem::replace(&mut self.current, Version { revision, values }));
        Ok(true)
    }

    /// Returns `true` if a version with `values` followed the version `replaced`.
    fn was_replaced(&self, replaced: Revision, values: Option<Values>) -> bool {
        let mut versions = self.iter().skip_while(|version| version.revision != replaced);
        versions.nth(1).is_some_and(|version| version.values == values)
    }

    /// Returns the last known side.
    fn side(&self) -> Option<Side> {
        let versions = self.earlier.iter().rev();
        let mut values = [&self.current]
            .into_iter()
            .chain(versions)
            .filter_map(|version| version.values);
        values.next().and_then(|values| values.side)
    }

    fn conflict(&self) -> Rejection {
        Rejection::Conflict {
            kept: match self.current.values {
                Some(Values { price, qty, .. }) => {
                    format!("price {price} and qty {qty} of the same trade, which are kept")
                }
                None => "the bust of the same trade".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revision(number: i64) -> Revision {
        number.try_into().unwrap()
    }

    fn values(price: u32) -> Values {
        Values {
            price: price.into(),
            qty: Decimal::from_lots(1, 0),
            side: Some(Side::Buy),
        }
    }

    /// Creates a correction to `price`, or a bust for 0.
    fn amendment(number: i64, price: u32, replaces: Option<i64>) -> Amendment {
        Amendment {
            symbol: "A".parse().unwrap(),
            ts_us: 0,
            trade_id: "1".into(),
            change: match price {
                0 => Change::Bust,
                price => Change::Correction {
                    price: price.into(),
                    qty: Decimal::from_lots(1, 0),
                    side: None,
                },
            },
            replaces: replaces.map(revision),
            revision: revision(number),
        }
    }

    fn current(versions: &Versions) -> Option<f64> {
        versions.current().values.map(|values| values.price)
    }

    #[test]
    fn a_correction_replaces_and_keeps_the_side_that_it_does_not_name() {
        let mut versions = Versions::new(revision(1), values(10));
        assert_eq!(versions.amend(&amendment(2, 11, None)), Ok(true));
        assert_eq!(versions.current().values, Some(values(11)));
        let (first, second): (Vec<_>, Vec<_>) = versions
            .iter()
            .map(|version| (version.revision, version.values))
            .unzip();
        assert_eq!(
            (first, second),
            (vec![revision(1), revision(2)], vec![Some(values(10)), Some(values(11))])
        );
    }

    #[test]
    fn another_price_or_quantity_conflicts_and_the_kept_one_is_named() {
        let mut versions = Versions::new(revision(1), values(10));
        let qty = Decimal::from_lots(1, 0);
        assert_eq!(versions.repeat(10.0, qty), Ok(()));
        for (price, qty) in [(11.0, qty), (10.0, Decimal::from_lots(2, 0))] {
            let reason = versions.repeat(price, qty).unwrap_err().to_string();
            assert!(reason.starts_with("conflicts with price 10 and qty 1 "), "{reason}");
        }
        versions.amend(&amendment(2, 0, None)).unwrap();
        assert_eq!(versions.repeat(10.0, qty), Ok(()));
        let reason = versions.repeat(11.0, qty).unwrap_err().to_string();
        assert!(reason.starts_with("conflicts with the bust "), "{reason}");
        assert!(versions.amend(&amendment(3, 12, None)).is_err());
    }

    #[test]
    fn an_amendment_that_names_the_current_version_may_return_to_an_earlier_one() {
        let mut versions = Versions::new(revision(1), values(10));
        versions.amend(&amendment(2, 0, None)).unwrap();
        assert!(versions.amend(&amendment(3, 10, Some(1))).is_err());
        assert_eq!(versions.amend(&amendment(3, 10, Some(2))), Ok(true));
        assert_eq!(versions.amend(&amendment(9, 10, Some(2))), Ok(false), "the same again");
        assert_eq!(versions.amend(&amendment(4, 0, None)), Ok(false), "the bust again");
        assert_eq!(current(&versions), Some(10.0));
    }

    proptest! {
        /// A feed of corrections and a bust that is sent again, cut off anywhere, changes nothing.
        #[test]
        fn a_repeated_feed_changes_nothing(
            prices in prop::collection::vec(1u32..4, 0..6),
            ends_with_bust: bool,
            cut in 0usize..8,
        ) {
            let feed: Vec<u32> = prices.into_iter().chain(ends_with_bust.then_some(0)).collect();
            let mut versions = Versions::new(revision(1), values(1));
            for (number, price) in (2..).zip(&feed) {
                versions.amend(&amendment(number, *price, None)).unwrap();
            }
            let before = versions.clone();
            prop_assert_eq!(versions.repeat(1.0, Decimal::from_lots(1, 0)), Ok(()));
            for (number, price) in (100..).zip(feed.iter().take(cut)) {
                prop_assert_eq!(versions.amend(&amendment(number, *price, None)), Ok(false));
            }
            prop_assert_eq!(versions, before);
        }
    }
}
