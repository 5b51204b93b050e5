use std::io;
use std::path::Path;

use secrecy::SecretString;

/// Reads a secret from `path`, without the line break that editors append.
pub(super) fn read(path: &Path) -> io::Result<SecretString> {
    let at = |kind, reason: &dyn std::fmt::Display| {
        io::Error::new(kind, format!("password file {}: {reason}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| at(error.kind(), &error))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(at(io::ErrorKind::InvalidData, &"is empty"));
    }
    Ok(SecretString::from(password))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn only_the_last_line_break_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, " s p\n").unwrap();
        assert_eq!(read(&path).unwrap().expose_secret(), " s p");
    }

    #[test]
    fn an_empty_or_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        assert!(read(&path).unwrap_err().to_string().contains("password"));
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().ends_with("is empty"));
    }
}
