use proptest::prelude::*;

use super::*;

const SEGMENT_BYTES: u64 = 16 << 20;

/// Returns a base backup of segments 2 and 3 of timeline 1.
fn base() -> BaseContent {
    BaseContent {
        server_version: "17.6".into(),
        system_identifier: "7".into(),
        timeline: 1,
        start_lsn: "0/2000028".into(),
        end_lsn: "0/3000100".into(),
        start_segment: "000000010000000000000002".into(),
    }
}

fn files(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn segment(timeline: u32, number: u32) -> String {
    format!("{timeline:08X}00000000{number:08X}")
}

/// Returns the files that a recovery reads; the first missing or damaged file as an error.
fn plan(names: &BTreeSet<String>, histories: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let history = |file: &str| {
        let text = histories.iter().find(|(name, _)| *name == file);
        Ok(text.expect("a history file of this name").1.to_owned())
    };
    let required = required_segments(names, history, &base(), SEGMENT_BYTES).map_err(|damage| damage.to_string())?;
    let needed = required
        .into_iter()
        .filter(|segment| segment.file.is_ok() || !segment.is_in_backup);
    needed.map(|segment| segment.file).collect()
}

#[test]
fn a_missing_segment_is_named() {
    let all: Vec<String> = (1..=7).map(|number| segment(1, number)).collect();
    let without = |gone: &[u32]| {
        let kept = all
            .iter()
            .filter(|name| gone.iter().all(|number| **name != segment(1, *number)));
        plan(&kept.cloned().collect(), &[])
    };
    assert_eq!(without(&[]), Ok(all[1..].to_vec()));
    // The segments of the base backup and older ones are not needed.
    assert_eq!(without(&[1, 2, 3]), Ok(all[3..].to_vec()));
    assert_eq!(without(&[4]), Err(segment(1, 4)));
    assert_eq!(without(&[5, 6]), Err(segment(1, 5)));
    assert_eq!(without(&[7]), Ok(all[1..6].to_vec()));
    assert_eq!(plan(&files(&[]), &[]), Ok(vec![]));
    // An archive that begins after the base backup.
    assert_eq!(plan(&files(&[&segment(1, 9)]), &[]), Err(segment(1, 4)));
}

#[test]
fn the_partial_segment_counts_and_unrelated_files_do_not() {
    let partial = format!("{}.partial", segment(1, 5));
    let names = files(&[&segment(1, 4), &partial, "notes.txt", "000000010000000000000007.gz"]);
    assert_eq!(plan(&names, &[]), Ok(vec![segment(1, 4), partial.clone()]));
    let both = files(&[&segment(1, 4), &segment(1, 5), &partial]);
    assert_eq!(plan(&both, &[]), Ok(vec![segment(1, 4), segment(1, 5)]));
}

#[test]
fn the_newest_timeline_is_followed_from_its_first_position() {
    let second = ("00000002.history", "1\t0/5000200\tno recovery target specified\n");
    let third = (
        "00000003.history",
        "1\t0/5000200\tno recovery target specified\n\n2\t0/6000300\tbefore 2026-11-23\n",
    );
    let names = |names: &[(u32, u32)]| -> BTreeSet<String> {
        let segments = names.iter().map(|(timeline, number)| segment(*timeline, *number));
        segments.chain([second.0, third.0].map(str::to_owned)).collect()
    };
    let all = [(1, 4), (1, 5), (1, 6), (2, 5), (2, 6), (3, 6), (3, 7)];
    let histories = [second, third];
    let expected: Vec<String> = [(1, 4), (2, 5), (3, 6), (3, 7)]
        .map(|(timeline, number)| segment(timeline, number))
        .into();
    assert_eq!(plan(&names(&all), &histories), Ok(expected));
    // The segment in which a timeline begins may exist under the previous timeline only.
    let begun = [(1, 4), (1, 5), (2, 6), (3, 7)];
    let expected: Vec<String> = begun.map(|(timeline, number)| segment(timeline, number)).into();
    assert_eq!(plan(&names(&begun), &histories), Ok(expected));
    assert_eq!(
        plan(&names(&[(1, 4), (2, 5), (2, 6), (2, 7), (3, 8)]), &histories),
        Err(segment(3, 7))
    );

    let without_third: BTreeSet<String> = names(&all).into_iter().filter(|name| name != third.0).collect();
    let error = plan(&without_third, &histories).unwrap_err();
    assert!(error.contains("00000003.history is missing"), "{error}");
    let foreign = [
        ("00000002.history", second.1),
        ("00000003.history", "2\t0/6000300\tx\n"),
    ];
    let error = plan(&names(&all), &foreign).unwrap_err();
    assert!(error.contains("does not contain timeline 1"), "{error}");
    let error = plan(&names(&all), &[second, ("00000003.history", "nonsense")]).unwrap_err();
    assert!(error.contains("is damaged"), "{error}");
}

#[test]
fn the_size_of_segments_is_derived_from_the_base_backup() {
    assert_eq!(segment_bytes(&base()).unwrap(), SEGMENT_BYTES);
    let large = BaseContent {
        start_lsn: "1/80000028".into(),
        start_segment: "000000010000000100000020".into(),
        ..base()
    };
    assert_eq!(segment_bytes(&large).unwrap(), 64 << 20);
}

proptest! {
    #[test]
    fn the_first_gap_after_the_backup_is_missing(there in prop::collection::btree_set(1_u32..20, 0..20)) {
        let names = there.iter().map(|number| segment(1, *number)).collect();
        let last = there.last().copied().unwrap_or(0);
        let missing = (4..=last).find(|number| !there.contains(number));
        let expected = match missing {
            Some(number) => Err(segment(1, number)),
            None => Ok(there.iter().filter(|number| **number >= 2).map(|number| segment(1, *number)).collect()),
        };
        prop_assert_eq!(plan(&names, &[]), expected);
    }
}
