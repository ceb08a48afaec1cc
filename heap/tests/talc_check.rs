//! `check` and `check_heap`: each test damages a heap and expects exactly the report of that
//! damage.

mod common;

use std::alloc::Layout;

use common::memory::Memory;
use common::random::Random;
use common::sizes::{FIRST, SMALLEST, units};
use heap::Span;
use heap::talc::base::{CHUNK_UNIT, Talc};
use heap::talc::source::Manual;
use heap::talc::{Corruption, DefaultBinning, Region, Rule, min_first_heap_size};

const WORD: usize = size_of::<usize>();

/// With `hardened`, tags have checksums, regions are single chunks, and `check` walks heaps before
/// it follows lists, so that it reports damage as misuse. The tests of `hardened` cover that.
const HARDENED: bool = cfg!(feature = "hardened");

/// The number of units of the smallest chunk.
const FEW: usize = SMALLEST / CHUNK_UNIT;

/// A heap with gaps between chunks: one of the fewest units, two of one unit more. The rest is a
/// gap.
struct Specimen {
    talc: Talc<Manual, DefaultBinning>,
    heap: Span,
    /// The gaps in the order of their addresses.
    gaps: Vec<Span>,
    _memory: Memory,
}

impl Specimen {
    fn new() -> Self {
        let memory = Memory::new(min_first_heap_size::<DefaultBinning>() + 100 * CHUNK_UNIT);
        let mut talc = Talc::new(Manual);
        // SAFETY: only this value uses the memory, sizes are not zero, and blocks are freed once.
        let heap = unsafe {
            let end = talc.claim(memory.base(), memory.size()).unwrap();
            let blocks = [FEW, FEW + 1, FEW + 1].map(|count| {
                let layout = Layout::from_size_align(units(count), 1).unwrap();
                let block = talc.allocate(layout).unwrap();
                talc.allocate(Layout::new::<u8>()).unwrap();
                (block, layout)
            });
            for (block, layout) in blocks {
                talc.deallocate(block.as_ptr(), layout);
            }
            Span::new(memory.base(), end.as_ptr())
        };
        let gaps: Vec<_> = talc.gaps_in(heap).collect();
        let specimen = Self {
            talc,
            heap,
            gaps,
            _memory: memory,
        };
        assert_eq!(specimen.gaps.len(), 4);
        assert_eq!(specimen.report(), None, "it is sound");
        specimen
    }

    /// Changes a word of the heap.
    fn damage(&self, at: *mut u8, change: impl FnOnce(usize) -> usize) {
        let word: *mut usize = at.cast();
        // SAFETY: the tests name words in the heap.
        unsafe { word.write(change(word.read())) };
    }

    /// Changes a byte of the heap.
    fn damage_byte(&self, at: *mut u8, change: impl FnOnce(u8) -> u8) {
        // SAFETY: the tests name bytes in the heap.
        unsafe { at.write(change(at.read())) };
    }

    fn report(&self) -> Option<(usize, Rule)> {
        let lists = self.talc.check().err().map(Self::shown);
        lists.or_else(|| self.report_of_heap())
    }

    /// Asserts that exactly this is reported or, with `hardened`, an overwritten word.
    #[track_caller]
    fn assert_reports(&self, address: usize, rule: Rule) {
        let report = self.report();
        #[cfg(feature = "hardened")]
        if let Some((_, Rule::Misuse(_))) = report {
            return;
        }
        assert_eq!(report, Some((address, rule)));
    }

    /// Returns what `check_heap` reports.
    fn report_of_heap(&self) -> Option<(usize, Rule)> {
        // SAFETY: the span is the heap's.
        let result = unsafe { self.talc.check_heap(self.heap) };
        result.err().map(Self::shown)
    }

    fn shown(corruption: Corruption) -> (usize, Rule) {
        let address = format!("{:#x}", corruption.address);
        assert!(
            corruption.to_string().contains(&address),
            "the text names the place"
        );
        (corruption.address, corruption.rule)
    }

    /// Returns where the least significant byte of the tag below an address lies.
    fn tag_below(&self, end: *mut u8) -> *mut u8 {
        let one_byte =
            cfg!(all(target_pointer_width = "64", target_endian = "little")) && !HARDENED;
        end.wrapping_sub(if one_byte || cfg!(target_endian = "big") {
            1
        } else {
            WORD
        })
    }
}

#[test]
fn check_reports_a_wrong_referrer() {
    let specimen = Specimen::new();
    let base = specimen.gaps[0].base();
    let mut was = 0;
    specimen.damage(base.wrapping_add(2 * WORD), |referrer| {
        was = referrer;
        referrer ^ 8
    });
    let expected = Rule::Referrer {
        found: was ^ 8,
        expected: was,
    };
    specimen.assert_reports(base.addr(), expected);
}

#[test]
fn check_reports_a_next_pointer_that_leads_to_no_gap() {
    let specimen = Specimen::new();
    // The two gaps of three units share a list, the latest first.
    let base = specimen.gaps[2].base();
    specimen.damage(base.wrapping_add(WORD), |next| next + 1);
    specimen.assert_reports(specimen.gaps[1].base().addr() + 1, Rule::Misaligned);
}

#[test]
fn check_reports_a_cyclic_list() {
    let specimen = Specimen::new();
    let (last, first) = (specimen.gaps[1].base(), specimen.gaps[2].base());
    let mut found = 0;
    specimen.damage(first.wrapping_add(2 * WORD), |referrer| {
        found = referrer;
        referrer
    });
    specimen.damage(last.wrapping_add(WORD), |_| first.addr());
    let expected = last.addr() + WORD;
    specimen.assert_reports(first.addr(), Rule::Referrer { found, expected });
}

#[test]
fn check_reports_a_gap_in_the_wrong_bin() {
    let specimen = Specimen::new();
    let base = specimen.gaps[0].base();
    specimen.damage(base, |extent| extent + CHUNK_UNIT);
    let found = FEW as u32;
    let expected = found + 1;
    specimen.assert_reports(base.addr(), Rule::Bin { found, expected });
    specimen.damage(base, |_| 0);
    let expected = 0;
    specimen.assert_reports(base.addr(), Rule::Bin { found, expected });
}

#[test]
fn check_reports_an_overwritten_last_extent() {
    let specimen = Specimen::new();
    let gap = specimen.gaps[1];
    specimen.damage(gap.end().wrapping_sub(WORD), |_| 0x4141);
    let expected = Rule::Extent {
        at_base: (FEW + 1) * CHUNK_UNIT,
        at_end: 0x4141,
    };
    specimen.assert_reports(gap.base().addr(), expected);
}

#[test]
fn check_reports_an_overwritten_tag_below_a_gap() {
    for change in [
        |_| 0,
        |tag: u8| tag & !1,
        |tag: u8| tag & !4,
        |tag: u8| tag | 2,
    ] {
        let specimen = Specimen::new();
        let gap = specimen.gaps[1];
        specimen.damage_byte(specimen.tag_below(gap.base()), change);
        specimen.assert_reports(gap.base().addr(), Rule::TagBelowGap);
    }
}

#[test]
fn check_reports_a_bit_that_disagrees_with_its_list_head() {
    let specimen = Specimen::new();
    // The list heads lie at the base of the first heap, one word for each list. A gap of *n* units
    // is in list *n*.
    let heads = specimen
        .talc
        .regions(specimen.heap)
        .next()
        .unwrap()
        .span()
        .base();
    let head = heads.wrapping_add(FEW * WORD);
    specimen.damage(head, |first| {
        assert_eq!(first, specimen.gaps[0].base().addr());
        0
    });
    let expected = Rule::Availability {
        bin: FEW as u32,
        available: true,
    };
    specimen.assert_reports(head.addr(), expected);
}

#[test]
fn check_heap_reports_a_wrong_base_tag() {
    let specimen = Specimen::new();
    let first = specimen
        .talc
        .regions(specimen.heap)
        .next()
        .unwrap()
        .span()
        .base();
    for change in [
        |tag: u8| tag & !8,
        |tag: u8| tag & !1,
        |tag: u8| tag | 4,
        |tag: u8| tag | 2,
    ] {
        let specimen_tag = specimen.tag_below(first);
        let mut was = 0;
        specimen.damage_byte(specimen_tag, |tag| {
            was = tag;
            change(tag)
        });
        assert_eq!(
            specimen.report_of_heap(),
            Some((first.addr(), Rule::HeapBase))
        );
        specimen.damage_byte(specimen_tag, |_| was);
    }
    assert_eq!(specimen.report(), None);
}

#[test]
fn check_heap_reports_a_wrong_end_mark() {
    let mut specimen = Specimen::new();
    let top = specimen.gaps[3];
    // The mark on a gap …
    specimen.damage(top.base(), |extent| extent ^ 2);
    specimen.damage(top.end().wrapping_sub(WORD), |extent| extent ^ 2);
    // (For `hardened`, such a gap is not one.)
    let rule = [Rule::HeapEnd, Rule::TagOfRun][usize::from(HARDENED)];
    let address = [top.base(), top.end()][usize::from(HARDENED)].addr();
    assert_eq!(specimen.report_of_heap(), Some((address, rule)));
    specimen.damage(top.base(), |extent| extent ^ 2);
    specimen.damage(top.end().wrapping_sub(WORD), |extent| extent ^ 2);
    // … and the mark on a chunk.
    let layout = Layout::from_size_align(units(top.size() / CHUNK_UNIT), 1).unwrap();
    // SAFETY: the size is not zero.
    unsafe { specimen.talc.allocate(layout) }.unwrap();
    assert_eq!(specimen.report(), None);
    for (change, rule) in [
        ((|tag| tag & !2) as fn(u8) -> u8, Rule::HeapEnd),
        (|tag| tag | 4, Rule::TagOfRun),
        (|tag| tag & !1, Rule::TagOfRun),
    ] {
        let tag = specimen.tag_below(top.end());
        let mut was = 0;
        specimen.damage_byte(tag, |tag| {
            was = tag;
            change(tag)
        });
        assert_eq!(specimen.report_of_heap(), Some((top.end().addr(), rule)));
        specimen.damage_byte(tag, |_| was);
    }
}

#[test]
fn check_heap_verifies_slivers_at_both_ends() {
    let memory = Memory::new(1 << 16);
    let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    // The first chunk of the second heap lies one unit above a multiple of two units.
    let min = min_first_heap_size::<DefaultBinning>().next_multiple_of(2 * CHUNK_UNIT);
    let first = memory
        .base()
        .wrapping_add((min + FIRST).next_multiple_of(2 * CHUNK_UNIT) + CHUNK_UNIT);
    let base = first.wrapping_sub(FIRST);
    let low_units = SMALLEST.div_ceil(2 * CHUNK_UNIT) * 2;
    let low_layout = Layout::from_size_align(units(low_units), 2 * CHUNK_UNIT).unwrap();
    // SAFETY: only this test uses the memory, and sizes are not zero.
    let heap = unsafe {
        talc.claim(memory.base(), min).unwrap();
        while talc.allocate(Layout::new::<u8>()).is_some() {}
        let size = FIRST + (low_units + 3) * CHUNK_UNIT;
        let end = talc.claim(base, size).unwrap();
        let low = talc.allocate(low_layout).unwrap();
        assert_eq!(low.as_ptr(), first.wrapping_add(CHUNK_UNIT));
        let end = talc
            .truncate(end, low.as_ptr().wrapping_add((low_units + 1) * CHUNK_UNIT))
            .unwrap();
        let byte = talc.allocate(Layout::new::<u8>());
        assert_eq!(byte, None, "slivers are not allocated");
        Span::new(base, end.as_ptr())
    };
    let regions: Vec<_> = talc.regions(heap).collect();
    assert_eq!(regions.len(), if HARDENED { 3 } else { 1 });
    assert_eq!(regions[0].span().base(), first);
    assert!(regions.iter().all(|it| matches!(it, Region::Run(_))));
    // SAFETY: the span is that of a heap of this allocator.
    let report = || unsafe { talc.check_heap(heap) }.map_err(|it| (it.address, it.rule));
    assert_eq!(report(), Ok(()));
    for (at, address, rule) in [
        (first, first, Rule::HeapBase),
        (first.wrapping_add(CHUNK_UNIT - WORD), first, Rule::HeapBase),
        (
            heap.end().wrapping_sub(CHUNK_UNIT),
            heap.end(),
            Rule::TagOfRun,
        ),
        (heap.end().wrapping_sub(WORD), heap.end(), Rule::TagOfRun),
    ] {
        let word: *mut usize = at.cast();
        // SAFETY: the word is in the heap.
        let was = unsafe { word.replace(2 * CHUNK_UNIT) };
        assert_eq!(report(), Err((address.addr(), rule)));
        // SAFETY: the word is in the heap.
        unsafe { word.write(was) };
    }
    assert_eq!(report(), Ok(()));
    // SAFETY: the heap is this allocator's, and its block is live.
    unsafe {
        let low = first.wrapping_add(CHUNK_UNIT);
        let end = std::ptr::NonNull::new(heap.end()).unwrap();
        assert_eq!(
            talc.reserved(end).up_to.as_ptr(),
            low.wrapping_add(low_units * CHUNK_UNIT)
        );
        talc.deallocate(low, low_layout);
    }
    assert_eq!(
        talc.gaps_in(heap).collect::<Vec<_>>(),
        [Span::new(first, heap.end())]
    );
    // SAFETY: it is a heap of this allocator.
    unsafe { talc.check_heap(heap) }.unwrap();
}

#[test]
fn check_heap_reports_a_gap_beyond_the_given_end() {
    let mut specimen = Specimen::new();
    let top = specimen.gaps[3];
    specimen.heap = specimen.heap.truncate(0, CHUNK_UNIT);
    let heap_end = specimen.heap.end().addr();
    let expected = Rule::GapEnd {
        found: top.end().addr(),
        heap_end,
    };
    assert_eq!(specimen.report(), Some((top.base().addr(), expected)));
}

#[test]
fn gaps_and_runs_tile_the_heap_in_address_order() {
    let mut random = Random::new(64);
    // Fewer and more gaps than one pass puts into order.
    for count in [0, 1, 63, 64, 65, 128, 1000] {
        let memory = Memory::new(
            min_first_heap_size::<DefaultBinning>() + (2 * count + 10) * 40 * CHUNK_UNIT,
        );
        let mut talc = Talc::<_, DefaultBinning>::new(Manual);
        // SAFETY: the memory is ours, sizes are not zero, and blocks are freed once.
        let heap = unsafe {
            let end = talc.claim(memory.base(), memory.size()).unwrap();
            let mut blocks: Vec<_> = (0..count)
                .map(|_| {
                    let layout = Layout::from_size_align(random.size(10), 1).unwrap();
                    let block = talc.allocate(layout).unwrap();
                    talc.allocate(Layout::new::<u8>()).unwrap();
                    (block, layout)
                })
                .collect();
            while !blocks.is_empty() {
                let (block, layout) = blocks.swap_remove(random.below(blocks.len()));
                talc.deallocate(block.as_ptr(), layout);
            }
            Span::new(memory.base(), end.as_ptr())
        };
        let mut expected: Vec<_> = talc.gaps().collect();
        expected.sort_by_key(|gap| gap.base());
        assert_eq!(expected.len(), count + 1);
        assert_eq!(talc.gaps_in(heap).collect::<Vec<_>>(), expected);

        let regions: Vec<_> = talc.regions(heap).collect();
        for pair in regions.windows(2) {
            assert_eq!(pair[0].span().end(), pair[1].span().base());
            assert!(
                matches!(
                    pair,
                    [Region::Gap(_), Region::Run(_)] | [Region::Run(_), Region::Gap(_)]
                ) || HARDENED && matches!(pair, [Region::Run(_), Region::Run(_)])
            );
        }
        assert_eq!(regions.last().unwrap().span().end(), heap.end());
        let gaps = regions
            .iter()
            .filter(|region| matches!(region, Region::Gap(_)));
        assert_eq!(gaps.count(), count + 1);
    }
}
