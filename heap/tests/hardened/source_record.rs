//! Overwritten records of `ArenaSource` at the ends of heaps, and anything else beside them.

use std::alloc::GlobalAlloc;

use heap::source::ArenaSource;
use heap::talc::hardened::{Misuse, Report};
use heap::talc::{Corruption, Rule, TalcLock};
use heap::vmem::{AllocPolicy, Arena, LockApi, NoPages, TagPool};

use super::{WORD, at, damage, layout, note, reports};
use crate::common::guarded::Guarded;
use crate::common::random::Random;

const PAGE: usize = 4096;
const PAGES: usize = 64;
/// The number of words of a record that have a meaning.
const RECORD_WORDS: usize = 11;

type SpinLock = LockApi<spin::Mutex<()>>;
type Tags = TagPool<SpinLock, NoPages>;
type PageArena<'a> = Arena<'a, 'a, &'static Tags, SpinLock>;
type Heap<'a> = TalcLock<spin::Mutex<()>, ArenaSource<'a, &'static Tags, SpinLock>>;

fn arena(memory: &Guarded) -> PageArena<'_> {
    // Each arena has its own tags, because tests run concurrently and the shared pool is small.
    let tags: &'static Tags = Box::leak(Box::new(TagPool::new(SpinLock::new(), NoPages)));
    let arena = Arena::create("pages", PAGE, None, tags).unwrap();
    arena
        .add_span(memory.base().expose_provenance(), memory.size())
        .unwrap();
    arena
}

fn heap<'a>(arena: &'a PageArena<'a>) -> Heap<'a> {
    // SAFETY: the arena's memory is mapped, and only the heap uses what it allocates from there.
    let heap = Heap::new(unsafe { ArenaSource::new(arena) });
    heap.lock().set_hook(note);
    heap
}

fn alloc(heap: &Heap<'_>, size: usize) -> *mut u8 {
    // SAFETY: the size is not zero.
    unsafe { heap.alloc(layout(size)) }
}

fn free(heap: &Heap<'_>, block: *mut u8, size: usize) {
    // SAFETY: the block is live, or the detector refuses it.
    unsafe { heap.dealloc(block, layout(size)) }
}

fn is_record(result: Result<(), Corruption>) -> bool {
    matches!(
        result,
        Err(Corruption {
            rule: Rule::Misuse(Misuse::DamagedSourceRecord),
            ..
        })
    )
}

#[test]
fn damage_to_each_word_of_a_source_record_is_reported() {
    for word in 0..RECORD_WORDS {
        for found in [0, 1, PAGE, 0x4141_4141, usize::MAX] {
            let memory = Guarded::new(0x20_0000_0000, PAGES);
            let arena = arena(&memory);
            let heap = heap(&arena);
            let small = alloc(&heap, 100);
            // The first heap cannot grow in place, so the arena has two.
            let fence = arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
            let block = alloc(&heap, 70_000);
            assert_eq!(heap.lock().arena_heaps().count(), 2);
            assert_eq!(heap.lock().check(), Ok(()));

            let end = heap.lock().arena_heaps().next().unwrap().end;
            let place = at(end.as_ptr(), word * WORD);
            if damage(place, found) == found {
                continue;
            }
            let result = heap.lock().check();
            assert!(is_record(result), "word {word}: {result:?}");
            assert_eq!(result.unwrap_err().address, end.addr().get());
            // The heap keeps its size: it neither grows …
            let another = alloc(&heap, 66_000);
            let [
                Report {
                    misuse: Misuse::DamagedSourceRecord,
                    address,
                },
            ] = reports()[..]
            else {
                panic!("word {word} is reported once")
            };
            assert_eq!(address, end.addr().get());
            assert!(!another.is_null(), "there is room for another heap");
            // … nor shrinks, and its blocks can be allocated and freed.
            free(&heap, block, 70_000);
            free(&heap, another, 66_000);
            free(&heap, small, 100);
            heap.lock().trim();
            heap.drain().unwrap();
            assert!(is_record(heap.lock().check()));
            reports();
            drop(heap);
            arena.free(fence).unwrap();
        }
    }
}

#[test]
fn a_source_does_not_grow_a_heap_with_a_damaged_top() {
    let memory = Guarded::new(0x20_1000_0000, PAGES);
    let arena = arena(&memory);
    let heap = heap(&arena);
    let block = alloc(&heap, 100);
    let end = heap.lock().arena_heaps().next().unwrap().end;
    let place = at(end.as_ptr(), 0).wrapping_sub(WORD);
    let was = damage(place, 0x4141);
    let another = alloc(&heap, 70_000);
    assert!(!reports().is_empty());
    assert!(!another.is_null(), "another heap has room");
    assert_eq!(heap.lock().arena_heaps().count(), 2);
    damage(place, was);
    assert_eq!(heap.lock().check(), Ok(()));
    free(&heap, another, 70_000);
    free(&heap, block, 100);
    assert_eq!(reports(), []);
}

/// Runs random operations, overwrites anything, and runs more operations.
fn corrupt_at_random(seed: u64) {
    let mut random = Random::new(seed);
    let memory = Guarded::new(0x20_2000_0000, PAGES);
    let arena = arena(&memory);
    let heap = heap(&arena);
    let mut blocks = vec![];
    let mut fences = vec![];
    let operate =
        |random: &mut Random, blocks: &mut Vec<(*mut u8, usize)>, fences: &mut Vec<usize>| {
            match random.below(12) {
                0..6 => {
                    let size = random.size(15);
                    let block = alloc(&heap, size);
                    if !block.is_null() {
                        let is_in = memory.contains(block.addr())
                            && memory.contains(block.addr() + size - 1);
                        assert!(is_in, "{block:p} is in no heap");
                        // SAFETY: the block is in the heap's memory.
                        unsafe { block.write_bytes(0x5a, size) };
                        blocks.push((block, size));
                    }
                }
                6..9 if !blocks.is_empty() => {
                    let (block, size) = blocks.swap_remove(random.below(blocks.len()));
                    free(&heap, block, size);
                }
                9 => heap.lock().trim(),
                10 => drop(heap.drain()),
                _ if fences.len() < 3 => fences.extend(arena.alloc(PAGE, AllocPolicy::InstantFit)),
                _ => arena.free(fences.swap_remove(0)).unwrap(),
            }
        };
    for _ in 0..random.below(40) {
        operate(&mut random, &mut blocks, &mut fences);
    }
    assert_eq!((heap.lock().check(), reports()), (Ok(()), vec![]));
    let heaps: Vec<_> = heap.lock().arena_heaps().collect();
    if heaps.is_empty() {
        return;
    }
    for number in 0..1 + random.below(3) / 2 {
        let it = heaps[random.below(heaps.len())];
        let is_of_record = random.below(2) == 0;
        let place = if is_of_record {
            at(it.end.as_ptr(), random.below(RECORD_WORDS) * WORD)
        } else {
            at(it.base.as_ptr(), random.below(it.retained) / WORD * WORD)
        };
        let near = heaps[0].base.addr().get() + random.below(heaps[0].size);
        let words = [0, 1, usize::MAX, random.word() as usize, near, near & !15];
        let found = words[random.below(words.len())];
        let was = damage(place, found);
        if number == 0 && is_of_record && was != found {
            let result = heap.lock().check();
            assert!(is_record(result), "{result:?}");
        }
    }
    for _ in 0..40 {
        operate(&mut random, &mut blocks, &mut fences);
    }
    let _ = heap.lock().check();
    for (block, size) in blocks {
        free(&heap, block, size);
    }
    let _ = heap.lock().check();
    let _ = heap.lock().arena_heaps().count();
    heap.lock().trim();
    let _ = heap.drain();
    reports();
}

#[test]
fn random_corruption_of_an_arena_heap_causes_no_fault() {
    let number = |name: &str| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse::<u64>().unwrap())
    };
    if let Some(seed) = number("HEAP_SEED") {
        return corrupt_at_random(seed);
    }
    let count = number("HEAP_CORRUPTIONS").unwrap_or(20_000) / 10;
    for seed in 0..count {
        let result = std::panic::catch_unwind(|| corrupt_at_random(seed));
        assert!(result.is_ok(), "HEAP_SEED={seed}");
    }
    println!("{count} corruptions");
}
