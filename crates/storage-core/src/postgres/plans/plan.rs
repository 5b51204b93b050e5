//! Facts about a plan that was run: chunks, indexes, decompressed rows, and the time of each node. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::ChunkTables;

/// Number of chunks from which a query should exclude most chunks.
const MANY_CHUNKS: usize = 8;
/// Number of rows read in vain from which an index is worth while.
const MANY_DISCARDED: f64 = 10_000.0;
/// Number of decompressed rows that take a noticeable time.
const MANY_DECOMPRESSED: u64 = 1_000_000;
/// Planning time in ms that is noticeable.
const LONG_PLANNING_MS: f64 = 50.0;

/// A plan that was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Duration of planning in ms.
    pub planning_ms: f64,
    /// Duration of the execution in ms.
    pub execution_ms: f64,
    /// Number of rows returned.
    pub rows: f64,
    /// Nodes in the order of EXPLAIN, each before its children.
    pub nodes: Vec<Node>,
    /// Tables that were read.
    pub tables: BTreeMap<String, TableUse>,
}

/// Node of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Node {
    /// Number of nodes above it.
    pub depth: usize,
    /// Kind, such as `Index Scan` or `ColumnarScan`.
    pub kind: String,
    /// Table or chunk that it reads.
    pub relation: Option<String>,
    /// Index that it uses.
    pub index: Option<String>,
    /// Number of executions; 0 if it was excluded at run time.
    pub loops: f64,
    /// Number of rows of all executions.
    pub rows: f64,
    /// Number of rows read in vain.
    pub discarded: f64,
    /// Number of pages of all executions, its children's included.
    pub pages: f64,
    /// Duration without its children, in ms.
    pub own_ms: f64,
}

/// Use of a table by a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableUse {
    /// Number of its chunks; 0 for an ordinary table.
    pub chunks: usize,
    /// Names of the chunks that were read.
    pub read: BTreeSet<String>,
    /// Number of rows that were decompressed.
    pub decompressed: u64,
    /// `true` if an index was used.
    pub by_index: bool,
    /// `true` if a chunk or the table was read as a whole.
    pub sequentially: bool,
}

/// Table that the node above a node reads.
#[derive(Clone, Copy, Default)]
struct Parent<'a> {
    table: Option<&'a str>,
    /// `true` if it decompresses what its children read.
    is_columnar: bool,
}

impl Plan {
    /// Parses the JSON of EXPLAIN (ANALYZE, BUFFERS). `chunks` are those of all tables.
    pub fn parse(explained: &Value, chunks: &ChunkTables) -> Result<Self, String> {
        let explained = &explained[0];
        let root = &explained["Plan"];
        if !root.is_object() {
            return Err("EXPLAIN returned no plan".to_owned());
        }
        let mut plan = Self {
            planning_ms: number(explained, "Planning Time"),
            execution_ms: number(explained, "Execution Time"),
            rows: number(root, "Actual Rows"),
            ..Self::default()
        };
        plan.add(root, 0, Parent::default(), chunks);
        Ok(plan)
    }

    /// Adds a node and its children.
    fn add(&mut self, json: &Value, depth: usize, parent: Parent<'_>, chunks: &ChunkTables) {
        let text = |name: &str| json[name].as_str().map(str::to_owned);
        let children = json["Plans"].as_array().map(Vec::as_slice).unwrap_or_default();
        let loops = number(json, "Actual Loops");
        let total_ms = |json: &Value| number(json, "Actual Total Time") * number(json, "Actual Loops");
        let kind = text("Custom Plan Provider")
            .or_else(|| text("Node Type"))
            .unwrap_or_default();
        let node = Node {
            depth,
            relation: text("Relation Name"),
            index: text("Index Name"),
            loops,
            rows: number(json, "Actual Rows") * loops,
            discarded: number(json, "Rows Removed by Filter") * loops,
            pages: number(json, "Shared Hit Blocks") + number(json, "Shared Read Blocks"),
            own_ms: (total_ms(json) - children.iter().map(total_ms).sum::<f64>()).max(0.0),
            kind,
        };
        let is_columnar = matches!(node.kind.as_str(), "ColumnarScan" | "DecompressChunk");
        let chunk = node.relation.as_ref().filter(|relation| chunks.contains_key(*relation));
        let of_parent = parent
            .table
            .filter(|_| parent.is_columnar || node.kind == "Bitmap Index Scan");
        let table = of_parent.map(str::to_owned).or_else(|| match &chunk {
            Some(chunk) => chunks.get(*chunk).cloned(),
            None => node.relation.clone().filter(|_| node.kind.contains("Scan")),
        });
        if let Some(table) = &table {
            let used = self.tables.entry(table.clone()).or_insert_with(|| TableUse {
                chunks: chunks.values().filter(|of| *of == table).count(),
                ..TableUse::default()
            });
            if loops > 0.0 {
                used.read.extend(chunk.cloned());
                used.by_index |= node.index.is_some();
                used.sequentially |= node.kind == "Seq Scan";
                if is_columnar {
                    used.decompressed += whole(node.rows + node.discarded);
                }
            }
        }
        let of_children = Parent {
            table: table.as_deref(),
            is_columnar: is_columnar || parent.is_columnar,
        };
        self.nodes.push(node);
        for child in children {
            self.add(child, depth + 1, of_children, chunks);
        }
    }

    /// Describes how each table was read: `candles_1m: 1 of 60 chunks by index`.
    pub fn reads(&self) -> Vec<String> {
        let describe = |(table, used): (&String, &TableUse)| {
            let chunks = match used.chunks {
                0 => String::new(),
                chunks => format!("{} of {chunks} chunks ", used.read.len()),
            };
            let way = match (used.by_index, used.sequentially) {
                (true, true) => "by index and sequentially",
                (true, false) => "by index",
                (false, true) => "sequentially",
                (false, false) => "not read",
            };
            format!("{table}: {chunks}{way}")
        };
        self.tables.iter().map(describe).collect()
    }

    /// Returns the number of rows that were decompressed.
    pub fn decompressed(&self) -> u64 {
        self.tables.values().map(|used| used.decompressed).sum()
    }

    /// Returns what makes the statement slow, with what helps.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (table, used) in &self.tables {
            let read = used.read.len();
            if used.chunks >= MANY_CHUNKS && 2 * read > used.chunks {
                found.push(format!(
                    "reads {read} of {} chunks of {table}; name a shorter range of its time",
                    used.chunks
                ));
            }
        }
        let is_in_vain =
            |node: &&Node| node.kind == "Seq Scan" && node.discarded > MANY_DISCARDED.max(10.0 * node.rows);
        if let Some(most) = self
            .nodes
            .iter()
            .filter(is_in_vain)
            .max_by(|a, b| a.discarded.total_cmp(&b.discarded))
        {
            found.push(format!(
                "discards {} rows of {}; name the symbol, or add an index on the condition",
                whole(most.discarded),
                most.relation.as_deref().unwrap_or_default()
            ));
        }
        if self.decompressed() > MANY_DECOMPRESSED {
            found.push(format!(
                "decompresses {} rows; name the symbol or a shorter range of time",
                self.decompressed()
            ));
        }
        if self.planning_ms > LONG_PLANNING_MS && self.planning_ms > self.execution_ms {
            found.push(format!(
                "planning takes {:.0} ms, longer than the execution; name a shorter range of time, so that fewer \
                 chunks are planned",
                self.planning_ms
            ));
        }
        found
    }
}

fn number(json: &Value, name: &str) -> f64 {
    json[name].as_f64().unwrap_or(0.0)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a number of rows
fn whole(rows: f64) -> u64 {
    rows.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Chunks `c1` to `c10` of candles_1m.
    fn chunks() -> ChunkTables {
        (1..=10)
            .map(|chunk| (format!("c{chunk}"), "candles_1m".to_owned()))
            .collect()
    }

    fn scan(relation: &str, loops: u32) -> Value {
        json!({ "Node Type": "Seq Scan", "Relation Name": relation, "Actual Rows": 5, "Actual Loops": loops,
                "Actual Total Time": 1.0, "Rows Removed by Filter": 20_000 })
    }

    #[test]
    fn chunks_indexes_and_decompressed_rows_are_counted() {
        let columnar = json!({
            "Node Type": "Custom Scan", "Custom Plan Provider": "ColumnarScan", "Relation Name": "c2",
            "Actual Rows": 60, "Actual Loops": 2, "Actual Total Time": 3.0, "Rows Removed by Filter": 40,
            "Plans": [{ "Node Type": "Index Scan", "Relation Name": "c2_compressed", "Index Name": "i",
                        "Actual Rows": 1, "Actual Loops": 2, "Actual Total Time": 1.0 }] });
        let bitmap = json!({
            "Node Type": "Bitmap Heap Scan", "Relation Name": "c4",
            "Actual Rows": 1, "Actual Loops": 1, "Actual Total Time": 0.5,
            "Plans": [{ "Node Type": "Bitmap Index Scan", "Index Name": "i",
                        "Actual Rows": 1, "Actual Loops": 1, "Actual Total Time": 0.5 }] });
        let explained = json!([{
            "Planning Time": 0.5, "Execution Time": 9.0,
            "Plan": { "Node Type": "Custom Scan", "Custom Plan Provider": "ChunkAppend", "Relation Name": "candles_1m",
                      "Actual Rows": 65, "Actual Loops": 1, "Actual Total Time": 8.0,
                      "Plans": [columnar, scan("c3", 0), bitmap,
                                { "Node Type": "Index Scan", "Relation Name": "symbols", "Index Name": "symbols_pkey",
                                  "Actual Rows": 1, "Actual Loops": 1, "Actual Total Time": 0.5 }] } }]);
        let plan = Plan::parse(&explained, &chunks()).unwrap();
        assert_eq!(
            plan.reads(),
            ["candles_1m: 2 of 10 chunks by index", "symbols: by index"]
        );
        assert_eq!(plan.decompressed(), 200);
        assert_eq!(plan.problems(), Vec::<String>::new());
        let own: Vec<f64> = plan.nodes.iter().map(|node| node.own_ms).collect();
        assert_eq!(own, [1.0, 4.0, 2.0, 0.0, 0.0, 0.5, 0.5]);
    }

    #[test]
    fn a_plan_that_reads_most_chunks_in_vain_is_called_slow() {
        let scans: Vec<Value> = (1..=10).map(|chunk| scan(&format!("c{chunk}"), 1)).collect();
        let explained = json!([{
            "Planning Time": 70.0, "Execution Time": 60.0,
            "Plan": { "Node Type": "Append", "Actual Rows": 50, "Actual Loops": 1, "Actual Total Time": 50.0,
                      "Plans": scans } }]);
        let plan = Plan::parse(&explained, &chunks()).unwrap();
        assert_eq!(plan.reads(), ["candles_1m: 10 of 10 chunks sequentially"]);
        let problems = plan.problems();
        assert!(
            problems[0].starts_with("reads 10 of 10 chunks of candles_1m"),
            "{problems:?}"
        );
        assert!(problems[1].starts_with("discards 20000 rows of c"), "{problems:?}");
        assert!(
            problems
                .last()
                .is_some_and(|last| last.starts_with("planning takes 70 ms")),
            "{problems:?}"
        );
        assert!(Plan::parse(&json!([]), &chunks()).is_err());
    }
}
