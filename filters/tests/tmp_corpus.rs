//! tmp
use sluice_filters::*;
#[test]
fn corpus() {
    let all = std::fs::read_to_string("/tmp/corpus.txt").unwrap();
    let mut n = std::collections::BTreeMap::<String, usize>::new();
    for case in all.split('\x1e').filter(|c| !c.is_empty()) {
        let f: Vec<_> = case.split('\x1f').collect();
        let got = match Filter::parse(f[0], Dialect::Sluice) {
            Err(_) => "parse_error",
            Ok(x) => match x.row(&|k| f[3..].chunks(2).find(|c| c[0] == k).map(|c| c[1])) {
                Some(true) => "true",
                Some(false) => "false",
                None => "null",
            },
        };
        *n.entry(format!("{} -> {got}", f[1])).or_default() += 1;
        if got != f[1] && !f[2].starts_with("rand") {
            println!("{} -> {got}\t{}\t{:?}\t{:?}", f[1], f[2], f[0], &f[3..]);
        }
    }
    println!("{n:#?}");
}
