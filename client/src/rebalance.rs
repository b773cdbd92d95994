//! Which queues each member of a group reads: every member computes it on its own, all with the same result.

/// The share of one member: contiguous parts, the first `queues % members` members get one more. Members and
/// queues must be sorted; one who is no member gets nothing.
pub fn average<'a, Q>(queues: &'a [Q], members: &[String], member: &str) -> &'a [Q] {
    let Some(place) = members.iter().position(|other| other == member) else { return &[] };
    let (each, rest) = (queues.len() / members.len(), queues.len() % members.len());
    let start = each * place + place.min(rest);
    let end = start + each + usize::from(place < rest);
    queues.get(start..end).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Queues, members and each member's queues, of `allocate` with strategy AVG of Java 5.3.3.
    const JAVA: &[(usize, usize, &[&[usize]])] = &[
        (4, 1, &[&[0, 1, 2, 3]]),
        (4, 3, &[&[0, 1], &[2], &[3]]),
        (8, 3, &[&[0, 1, 2], &[3, 4, 5], &[6, 7]]),
        (2, 3, &[&[0], &[1], &[]]),
    ];

    #[test]
    fn shares_are_those_of_java() {
        for (queues, members, shares) in JAVA {
            let queues: Vec<usize> = (0..*queues).collect();
            let members: Vec<String> = (0..*members).map(|i| format!("c{i}")).collect();
            for (member, share) in members.iter().zip(*shares) {
                assert_eq!(average(&queues, &members, member), *share);
            }
        }
    }

    #[test]
    fn who_is_no_member_gets_nothing() {
        assert!(average(&[1, 2], &["a".into()], "b").is_empty());
        assert!(average(&[1, 2], &[], "b").is_empty());
    }
}
