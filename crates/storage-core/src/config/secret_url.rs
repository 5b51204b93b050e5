//! A URL with a masked password.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};

/// Replacement of a secret.
const MASK: &str = "***";

/// URL of a store. `Debug`, `Display` and `Serialize` mask its password.
#[derive(Clone)]
pub struct SecretUrl(SecretString);

impl SecretUrl {
    pub(super) fn new(url: impl Into<String>) -> Self {
        Self(SecretString::from(url.into()))
    }

    /// Returns the URL with its password, for opening a connection only.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Returns the URL with `***` in place of the password.
    pub fn masked(&self) -> String {
        mask_query(&mask_user_info(self.expose()))
    }
}

/// Masks from the first colon after the scheme to the last `@`. That is too much if the path has an `@`, and enough if
/// the password has an unescaped `@` or `/`. Without a colon, what precedes the `@` in the URL of a Redis is masked,
/// because many write the password there.
fn mask_user_info(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + "://".len());
    let Some(end) = url[start..].rfind('@').map(|at| start + at) else {
        return url.to_owned();
    };
    match url[start..end].find(':') {
        Some(colon) => format!("{}:{MASK}{}", &url[..start + colon], &url[end..]),
        None if url.starts_with("redis") => format!("{}{MASK}{}", &url[..start], &url[end..]),
        None => url.to_owned(),
    }
}

/// Masks the query parameters with `password` in their name.
fn mask_query(url: &str) -> String {
    let Some((base, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let parameters: Vec<String> = query
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if name.to_ascii_lowercase().contains("password") => {
                format!("{name}={MASK}")
            }
            _ => parameter.to_owned(),
        })
        .collect();
    format!("{base}?{}", parameters.join("&"))
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.masked())
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("redis://h:6379/0", "redis://h:6379/0"),
            ("redis://:hunter2@h/0", "redis://:***@h/0"),
            ("rediss://u:hunter2@h:1", "rediss://u:***@h:1"),
            ("redis://hunter2@h/0", "redis://***@h/0"),
            ("rediss+cluster://hunter2@h:1,i:2", "rediss+cluster://***@h:1,i:2"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("postgres://u:hun@ter2@h/d", "postgres://u:***@h/d"),
            ("postgres://u:12/hunter2@h/d", "postgres://u:***@h/d"),
            (
                "postgres:///d?host=/run&password=hunter2",
                "postgres:///d?host=/run&password=***",
            ),
            (
                "postgres://h/d?sslpassword=hunter2&a=b",
                "postgres://h/d?sslpassword=***&a=b",
            ),
        ] {
            let url = SecretUrl::new(url);
            assert_eq!(url.masked(), shown);
            assert_eq!(format!("{url:?}"), format!("{shown:?}"));
            assert_eq!(serde_json::to_value(&url).unwrap(), shown);
        }
    }
}
