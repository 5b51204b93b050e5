//! Statements with literals instead of parameters.
//!
//! diesel describes a statement as its text followed by the parameters in the form of `Debug`.

use std::fmt::Write;

/// Separates the text of a statement from its parameters in diesel's description.
const PARAMETERS: &str = " -- binds: ";

/// Returns the text of the statement of diesel's description.
pub(super) fn text(described: &str) -> &str {
    described.rsplit_once(PARAMETERS).map_or(described, |(text, _)| text)
}

/// Returns the statement of diesel's description with its parameters as literals. Returns `None` for statements other
/// than SELECT, and if a parameter is of an unknown form.
pub(super) fn with_literals(described: &str) -> Option<String> {
    let (text, parameters) = described.rsplit_once(PARAMETERS)?;
    let is_query = ["SELECT", "WITH"]
        .iter()
        .any(|word| text.trim_start().starts_with(word));
    let mut reader = Reader(parameters);
    let literals = reader.list()?;
    let mut statement = String::with_capacity(text.len());
    let mut parts = text.split('$');
    statement.push_str(parts.next()?);
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        match part[..digits].parse::<usize>() {
            Ok(number) => statement.push_str(literals.get(number.checked_sub(1)?)?),
            Err(_) => statement.push('$'),
        }
        statement.push_str(&part[digits..]);
    }
    is_query.then_some(statement)
}

/// Rest of a text in the form of `Debug`.
struct Reader<'a>(&'a str);

impl Reader<'_> {
    fn skip(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// Reads `[value, …]` and returns the literals of the values.
    fn list(&mut self) -> Option<Vec<String>> {
        self.skip("[")?;
        let mut literals = Vec::new();
        while self.skip("]").is_none() {
            if !literals.is_empty() {
                self.skip(", ")?;
            }
            literals.push(self.literal()?);
        }
        Some(literals)
    }

    fn literal(&mut self) -> Option<String> {
        if self.0.starts_with('[') {
            let literals = self.list()?;
            // An array needs the type of its elements.
            let typed = |literal: String| match literal.ends_with('\'') {
                true => format!("{literal}::bigint"),
                false => literal,
            };
            let literals: Vec<String> = literals.into_iter().map(typed).collect();
            return (!literals.is_empty()).then(|| format!("ARRAY[{}]", literals.join(", ")));
        }
        if self.skip("Some(").is_some() {
            let literal = self.literal()?;
            self.skip(")")?;
            return Some(literal);
        }
        if self.0.starts_with('"') {
            return self.text().map(|text| format!("'{}'::text", text.replace('\'', "''")));
        }
        let end = self.0.find([',', ']', ')']).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        match word {
            "None" => Some("NULL".to_owned()),
            "true" | "false" => Some(word.to_owned()),
            // Without a type, because diesel's description does not tell a smallint from a bigint.
            _ if word.parse::<i64>().is_ok() => Some(format!("'{word}'")),
            _ if word.parse::<f64>().is_ok() => Some(format!("'{word}'::double precision")),
            _ if chrono::DateTime::parse_from_rfc3339(word).is_ok() => Some(format!("'{word}'::timestamptz")),
            _ => None,
        }
    }

    /// Reads a text in quotation marks.
    fn text(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.0.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(text);
                }
                '\\' => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'u' => return None,
                    other => text.write_char(other).ok()?,
                },
                _ => text.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diesel::pg::Pg;
    use diesel::sql_types::{Array, BigInt, Bool, Double, Nullable, Text, Timestamptz};
    use diesel::{debug_query, sql_query};

    use crate::domain::time::to_datetime;

    #[test]
    fn parameters_become_typed_literals() {
        let query = sql_query("SELECT $1, $2, $3, $4, $5, $6, $7, $10, $8, $9, '$'")
            .bind::<Text, _>("it's a \"quoted\"\\ [name], $1")
            .bind::<BigInt, _>(-7_i64)
            .bind::<Timestamptz, _>(to_datetime(1_570_752_000_123_456))
            .bind::<Nullable<Text>, _>(None::<String>)
            .bind::<Nullable<Array<Text>>, _>(Some(vec!["A", "B"]))
            .bind::<Array<Timestamptz>, _>(vec![to_datetime(0)])
            .bind::<Bool, _>(true)
            .bind::<Double, _>(1e-7)
            .bind::<Array<Nullable<BigInt>>, _>(vec![Some(1_i64), None])
            .bind::<BigInt, _>(10_i64);
        let described = debug_query::<Pg, _>(&query).to_string();
        let expected = "SELECT 'it''s a \"quoted\"\\ [name], $1'::text, '-7', \
                        '2019-10-11T00:00:00.123456Z'::timestamptz, NULL, ARRAY['A'::text, 'B'::text], \
                        ARRAY['1970-01-01T00:00:00Z'::timestamptz], true, '10', '1e-7'::double precision, \
                        ARRAY['1'::bigint, NULL], '$'";
        assert_eq!(with_literals(&described).as_deref(), Some(expected));
    }

    #[test]
    fn statements_that_write_and_unknown_forms_are_left_out() {
        assert_eq!(with_literals("DELETE FROM ticks -- binds: []"), None);
        assert_eq!(with_literals("BEGIN"), None);
        assert_eq!(with_literals("SELECT $1 -- binds: [Uuid(7)]"), None);
        assert_eq!(with_literals("SELECT 1 -- binds: []").as_deref(), Some("SELECT 1"));
    }
}
