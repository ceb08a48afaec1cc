//! Programs on an arena, with fault injection in its source and its tag supply.

use std::sync::atomic::Ordering::SeqCst;

use crate::input::Input;
use crate::vmem::program::Shadow;
use crate::vmem::support::{CheckedSource, Choices, Tags, TestArena};

static TAGS: Tags = Tags::new();
/// A budget that no program can spend. Returned tags can be added without overflow.
const PLENTY: usize = usize::MAX / 2;

/// Runs a program on added spans, on spans borrowed from a source, or on spans of another arena.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let quantum = 1 << input.below(4);
    let space = 512 * quantum;
    TAGS.budget.store(PLENTY, SeqCst);
    let lender = CheckedSource::new(space, 2 * space - 1);
    {
        let above = TestArena::create("above", 2 * quantum, Some(&lender), &TAGS)
            .unwrap()
            .with_retained_spans(input.below(2));
        let arena = match input.below(3) {
            0 => TestArena::create("own", quantum, None, &TAGS),
            1 => TestArena::create("borrowing", quantum, Some(&lender), &TAGS),
            _ => TestArena::create("below another", quantum, Some(&above), &TAGS),
        };
        let arena = arena
            .unwrap()
            .with_retained_spans(input.below(3))
            .with_min_import(input.below(40) * quantum);
        for span in 0..input.below(4) {
            let len = (1 + input.below(64)) * quantum;
            arena.add_span(span * 64 * quantum, len).unwrap();
        }

        let mut shadow = Shadow::default();
        while !input.is_over() {
            if input.chance(16) {
                TAGS.budget.store(input.below(40), SeqCst);
                lender.budget.store(input.below(20), SeqCst);
            } else if input.chance(16) {
                TAGS.budget.store(PLENTY, SeqCst);
                lender.budget.store(PLENTY, SeqCst);
            }
            shadow.step(&arena, &mut input, 0, 2 * space);
            arena.check().unwrap();
            above.check().unwrap();
        }

        TAGS.budget.store(PLENTY, SeqCst);
        lender.budget.store(PLENTY, SeqCst);
        shadow.finish(&arena, &mut input);
        arena.trim();
        assert_eq!(arena.borrowed_space(), 0);
        above.trim();
        assert_eq!(lender.lent(), []);
        arena.check().unwrap();
    }
    TAGS.assert_all_back();
}
