//! Tables of steps.

use std::collections::BTreeMap;

use cucumber::gherkin::Step;

/// Returns the rows of a step's table, as values by column name.
pub(crate) fn rows(step: &Step) -> Vec<BTreeMap<String, String>> {
    let table = step.table.as_ref().expect("a table");
    let names = &table.rows[0];
    let row = |row: &Vec<String>| names.iter().cloned().zip(row.iter().cloned()).collect();
    table.rows[1..].iter().map(row).collect()
}
