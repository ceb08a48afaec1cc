use core::alloc::Layout;

use super::{Operation, Trace, TraceError};

/// A trace of these operations, each a list of numbers.
fn trace(operations: u32, slots: u32, peak: u64, numbers: &[u64]) -> Vec<u8> {
    let mut bytes = b"HEAPTRC1".to_vec();
    bytes.extend(operations.to_le_bytes());
    bytes.extend(slots.to_le_bytes());
    bytes.extend(peak.to_le_bytes());
    for &number in numbers {
        let mut rest = number;
        while rest > 0x7f {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    bytes
}

/// Two slots, every kind of operation.
const NUMBERS: [u64; 13] = [1, 0, 100, 3, 1, 1, 300, 12, 3, 0, 1000, 2, 1];

fn check(bytes: &[u8]) -> Result<(), TraceError> {
    let trace = Trace::parse(bytes)?;
    trace.check(&mut vec![0; trace.slots()])
}

#[test]
fn every_operation_is_read() {
    let bytes = trace(4, 2, 1300, &NUMBERS);
    let trace = Trace::parse(&bytes).unwrap();
    let operations: Vec<_> = trace.operations().collect();
    let expected = vec![
        Operation::Allocate {
            slot: 0,
            layout: Layout::from_size_align(100, 8).unwrap(),
        },
        Operation::Allocate {
            slot: 1,
            layout: Layout::from_size_align(300, 4096).unwrap(),
        },
        Operation::Reallocate {
            slot: 0,
            size: 1000,
        },
        Operation::Free { slot: 1 },
    ];
    assert_eq!(operations, expected);
    assert_eq!(check(&bytes), Ok(()));
}

#[test]
fn a_trace_cut_off_anywhere_is_refused() {
    let whole = trace(4, 2, 1300, &NUMBERS);
    for length in 0..whole.len() {
        assert!(check(&whole[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn every_damage_has_its_error() {
    let operation = 0;
    let damaged: [(&[u64], TraceError); 9] = [
        (&[4, 0], TraceError::UnknownOperation { operation, code: 4 }),
        (
            &[1, 1, 1, 0],
            TraceError::SlotOutOfRange { operation, slot: 1 },
        ),
        (&[1, 0, 0, 0], TraceError::BadSize { operation, size: 0 }),
        (
            &[1, 0, 1 << 63, 0],
            TraceError::BadSize {
                operation,
                size: 1 << 63,
            },
        ),
        (
            &[1, 0, 1, 22],
            TraceError::BadAlignment {
                operation,
                align_log2: 22,
            },
        ),
        (&[2, 0], TraceError::SlotEmpty { operation, slot: 0 }),
        (&[3, 0, 8], TraceError::SlotEmpty { operation, slot: 0 }),
        (
            &[1, 0, 5, 0],
            TraceError::WrongPeak {
                header: 1,
                found: 5,
            },
        ),
        (&[1, 0, 1, 0, 9, 9], TraceError::TooLong { bytes: 2 }),
    ];
    for (numbers, error) in damaged {
        assert_eq!(check(&trace(1, 1, 1, numbers)), Err(error), "{numbers:?}");
    }
    assert_eq!(
        check(&trace(2, 1, 1, &[1, 0, 1, 0, 1, 0, 1, 0])),
        Err(TraceError::SlotOccupied {
            operation: 1,
            slot: 0
        })
    );
}

#[test]
fn more_slots_than_operations_are_refused() {
    assert_eq!(
        check(&trace(1, 2, 1, &[1, 0, 1, 0])),
        Err(TraceError::TooManySlots {
            slots: 2,
            operations: 1
        })
    );
}

#[test]
fn a_number_of_more_than_64_bits_is_refused() {
    let mut bytes = trace(1, 1, 0, &[]);
    bytes.extend([0xff; 9]);
    bytes.push(0x02);
    assert_eq!(
        check(&bytes),
        Err(TraceError::NumberTooLarge { operation: 0 })
    );
    *bytes.last_mut().unwrap() = 0x01;
    let code = u64::MAX;
    assert_eq!(
        check(&bytes),
        Err(TraceError::UnknownOperation { operation: 0, code })
    );
}

#[test]
fn the_recorded_traces_are_right() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/traces");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "trace")
        {
            assert_eq!(check(&std::fs::read(&path).unwrap()), Ok(()), "{path:?}");
            found += 1;
        }
    }
    assert!(found >= 4);
}
