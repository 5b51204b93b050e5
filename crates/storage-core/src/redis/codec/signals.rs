//! Signals: hash `signal:active:<SYMBOL>` and messages on `signal:<SYMBOL>`. [`Signal::from_entry`] decodes entries of
//! `stream:signals`.

use serde_json::json;

use crate::domain::entry::Fields;
use crate::domain::signal::Signal;

/// Encodes a hash.
pub fn hash_fields(signal: &Signal) -> Fields {
    vec![
        ("signal_id", signal.signal_id.to_string()),
        ("strategy", signal.strategy.to_string()),
        ("side", signal.side.to_string()),
        ("strength", signal.strength.to_string()),
        ("price", signal.price.to_string()),
        ("ts_us", signal.ts_us.to_string()),
        ("expires_us", signal.expires_us.to_string()),
        ("revision", signal.revision.to_string()),
    ]
}

/// Encodes a message.
pub fn message(signal: &Signal) -> String {
    json!({
        "symbol": signal.symbol,
        "signal_id": signal.signal_id,
        "strategy": signal.strategy,
        "side": signal.side,
        "strength": signal.strength,
        "price": signal.price,
        "ts_us": signal.ts_us,
        "expires_us": signal.expires_us,
        "revision": signal.revision.to_string(),
    })
    .to_string()
}
