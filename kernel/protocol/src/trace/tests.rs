use core::alloc::Layout;
use std::{fs, vec, vec::Vec};

use super::{Header, Operation, Trace, TraceError, put_number};

/// Returns a trace whose operations are these numbers.
fn trace(operations: u32, slots: u32, peak: u64, numbers: &[u64]) -> Vec<u8> {
    let header = Header {
        operations,
        slots,
        peak,
    };
    let mut bytes = header.encode().to_vec();
    for &number in numbers {
        put_number(number, &mut |byte| bytes.push(byte));
    }
    bytes
}

/// The numbers of a trace with two slots and every kind of operation.
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
fn a_trace_without_operations_is_refused() {
    assert_eq!(check(&trace(0, 0, 0, &[])), Err(TraceError::Empty));
}

#[test]
fn a_trace_cut_off_anywhere_is_refused() {
    let whole = trace(4, 2, 1300, &NUMBERS);
    for length in 0..whole.len() {
        assert!(check(&whole[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn each_kind_of_damage_has_its_error() {
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
fn recorded_traces_are_valid_and_encode_to_the_same_bytes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/traces");
    let mut found = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "trace")
        {
            let bytes = fs::read(&path).unwrap();
            assert_eq!(check(&bytes), Ok(()), "{path:?}");
            let trace = Trace::parse(&bytes).unwrap();
            let mut encoded = trace.header.encode().to_vec();
            for operation in trace.operations() {
                operation.encode(|byte| encoded.push(byte));
            }
            assert!(encoded == bytes, "{path:?}");
            found += 1;
        }
    }
    assert!(found >= 4);
}
