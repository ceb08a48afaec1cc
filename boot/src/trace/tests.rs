use super::*;

/// A trace of `operations`, written as numbers, with a header that says what they are.
fn trace(slots: u32, peak: u64, operations: &[&[u64]]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((operations.len() as u32).to_le_bytes());
    bytes.extend(slots.to_le_bytes());
    bytes.extend(peak.to_le_bytes());
    for &number in operations.iter().copied().flatten() {
        leb128(&mut bytes, number);
    }
    bytes
}

fn leb128(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn refused(bytes: &[u8]) -> String {
    check(bytes).unwrap_err().to_string()
}

#[test]
fn the_repositorys_traces_are_well_formed() {
    let project = Project::find().unwrap();
    let names = names(&project).unwrap();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        load(&project, &name).unwrap();
    }
}

#[test]
fn every_operation_is_understood() {
    let operations: &[&[u64]] = &[
        &[1, 0, 100, 4],
        &[1, 1, 20_000, 21],
        &[3, 0, 300],
        &[2, 0],
        &[1, 0, 1, 0],
    ];
    assert_eq!(check(&trace(2, 20_300, operations)), Ok(()));
    assert_eq!(check(&trace(0, 0, &[])), Ok(()));
}

#[test]
fn each_damage_is_named_with_the_operation_it_is_in() {
    let cases: &[(&[&[u64]], &str)] = &[
        (&[&[1, 2, 8, 3]], "operation 0: slot 2 of 2"),
        (
            &[&[1, 0, 8, 3], &[1, 0, 8, 3]],
            "operation 1: slot 0 is not empty",
        ),
        (&[&[2, 0]], "operation 0: slot 0 is empty"),
        (
            &[&[1, 0, 8, 3], &[2, 0], &[3, 0, 8]],
            "operation 2: slot 0 is empty",
        ),
        (&[&[1, 0, 0, 3]], "operation 0: a block of no bytes"),
        (
            &[&[1, 0, 8, 3], &[3, 0, 0]],
            "operation 1: a block of no bytes",
        ),
        (
            &[&[1, 0, 8, 22]],
            "operation 0: an alignment of 2^22; the largest is 2^21",
        ),
        (&[&[4, 0]], "operation 0: there is no operation of kind 4"),
        (&[&[0, 0]], "operation 0: there is no operation of kind 0"),
        (
            &[&[1, 0, u64::MAX, 0], &[1, 1, 1, 0]],
            "operation 1: more live bytes than 64 bits can count",
        ),
    ];
    for (operations, message) in cases {
        assert_eq!(refused(&trace(2, 8, operations)), *message);
    }
}

#[test]
fn numbers_of_more_than_64_bits_are_refused() {
    let with_size = |size: &[u8]| {
        let mut bytes = trace(1, 8, &[&[1, 0, 8, 0]]);
        bytes.truncate(HEADER + 2);
        bytes.extend(size);
        bytes.push(0);
        bytes
    };
    let largest = [&[0xff; 9][..], &[1]].concat();
    assert_eq!(
        check(&with_size(&largest)),
        Err(Damage::Peak {
            stated: 8,
            actual: u64::MAX
        })
    );
    for size in [
        [&[0xff; 9][..], &[2]].concat(),
        [&[0x80; 10][..], &[0]].concat(),
    ] {
        assert_eq!(
            refused(&with_size(&size)),
            "operation 0: a number of more than 64 bits"
        );
    }
}

#[test]
fn a_trace_cut_anywhere_is_refused() {
    let whole = trace(
        2,
        20_300,
        &[&[1, 0, 100, 4], &[1, 1, 20_000, 12], &[3, 0, 300], &[2, 0]],
    );
    assert_eq!(check(&whole), Ok(()));
    for length in 0..whole.len() {
        let damage = check(&whole[..length]).unwrap_err();
        let operation = (length >= HEADER).then_some(0);
        assert!(
            matches!(damage, Damage::Truncated { operation: at } if at.is_some() == operation.is_some()),
            "{length}"
        );
    }
    assert_eq!(
        refused(&[whole, vec![0, 0]].concat()),
        "2 bytes follow its last operation"
    );
}

#[test]
fn what_is_no_trace_is_refused() {
    assert_eq!(
        refused(b"HEAPTRC2 and more"),
        "it does not begin with HEAPTRC1"
    );
    assert_eq!(refused(b"#"), "it does not begin with HEAPTRC1");
    assert_eq!(refused(b""), "it ends within its header");
    assert_eq!(
        refused(&trace(1, 9, &[&[1, 0, 8, 0]])),
        "its header says 9 live bytes at the peak, its operations 8"
    );
}

#[test]
fn a_header_that_claims_four_billion_slots_costs_no_memory() {
    assert_eq!(
        check(&trace(u32::MAX, 8, &[&[1, u64::from(u32::MAX) - 1, 8, 0]])),
        Ok(())
    );
}
