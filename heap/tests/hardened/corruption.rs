//! Random corruption of heaps: blocks and everything beside them. Neither `check` nor any operation
//! accesses memory outside the heaps, and `check` finds each change outside blocks.
//!
//! The heaps lie between guard pages, so that following a wild pointer kills the test.
//!
//! `HEAP_CORRUPTIONS=200000 cargo test -p heap --features hardened --test hardened
//! random_corruption` runs more of them, `HEAP_SEED=…` a single one. With `HEAP_TELL=1` and
//! `--nocapture`, the last seed shown is the one that was killed.

use std::alloc::Layout;
use std::ptr::null_mut;

use heap::Span;
use heap::talc::base::{HEAP_OVERHEAD, Talc};
use heap::talc::hardened::Misuse;
use heap::talc::source::Manual;
use heap::talc::{Corruption, DefaultBinning, Rule};

use super::{WORD, note, reports};
use crate::common::guarded::Guarded;
use crate::common::random::Random;

const HEAPS: usize = 4;
const HEADS: usize =
    <heap::talc::DefaultBinning as heap::talc::base::binning::Binning>::BIN_COUNT as usize * WORD;

/// Heaps between guard pages, and their live allocations.
struct Victim {
    talc: Talc<Manual, DefaultBinning>,
    memory: Vec<Guarded>,
    /// The heaps, from the claimed base to the end.
    heaps: Vec<Span>,
    blocks: Vec<(*mut u8, Layout)>,
}

impl Victim {
    fn new(random: &mut Random) -> Self {
        let mut talc = Talc::new(Manual);
        talc.set_hook(note);
        let mut victim = Self {
            talc,
            memory: vec![],
            heaps: vec![],
            blocks: vec![],
        };
        for _ in 0..1 + random.below(HEAPS) {
            victim.claim(random);
            for _ in 0..random.below(40) {
                victim.operate(random);
            }
        }
        assert_eq!(reports(), []);
        victim
    }

    fn claim(&mut self, random: &mut Random) {
        let near = 0x10_0000_0000 + self.memory.len() * 0x10_0000;
        let memory = Guarded::new(near, if self.memory.is_empty() { 3 } else { 1 });
        let offset = random.below(2) * random.below(100);
        let base = memory.base().wrapping_add(offset);
        let size = memory.size() - offset - random.below(3) * random.below(1000);
        // SAFETY: the memory outlives the allocator.
        if let Some(end) = unsafe { self.talc.claim(base, size) } {
            self.heaps.push(Span::new(base, end.as_ptr()));
            self.memory.push(memory);
        }
    }

    fn allocate(&mut self, random: &mut Random) {
        let align = 1 << random.below(8);
        let layout = Layout::from_size_align(random.size(10), align).unwrap();
        // SAFETY: the size is not zero.
        let Some(block) = (unsafe { self.talc.allocate(layout) }) else {
            return;
        };
        self.enter(block.as_ptr(), layout);
    }

    /// Notes a live block, and fills it.
    fn enter(&mut self, block: *mut u8, layout: Layout) {
        let (base, end) = (block.addr(), block.addr() + layout.size());
        let is_in = |memory: &Guarded| memory.contains(base) && memory.contains(end - 1);
        assert!(self.memory.iter().any(is_in), "{block:p} is in no heap");
        for &(other, of) in &self.blocks {
            let is_apart = end <= other.addr() || other.addr() + of.size() <= base;
            assert!(is_apart, "{block:p} overlaps {other:p}");
        }
        // SAFETY: the block is in a heap.
        unsafe { block.write_bytes(0x5a, layout.size()) };
        self.blocks.push((block, layout));
    }

    fn take(&mut self, random: &mut Random) -> Option<(*mut u8, Layout)> {
        let count = self.blocks.len();
        (count > 0).then(|| self.blocks.swap_remove(random.below(count)))
    }

    fn operate(&mut self, random: &mut Random) {
        match random.below(8) {
            0..4 => self.allocate(random),
            4..6 => {
                if let Some((block, layout)) = self.take(random) {
                    // SAFETY: the block is live. (If the call is refused, the block stays allocated
                    // and is not used.)
                    unsafe { self.talc.deallocate(block, layout) };
                }
            }
            _ => {
                if let Some((block, layout)) = self.take(random) {
                    let size = random.size(10);
                    // SAFETY: the block is live.
                    let done = unsafe { self.talc.try_realloc_in_place(block, layout, size) };
                    let is_refused = !reports().is_empty();
                    let new = Layout::from_size_align(size, layout.align()).unwrap();
                    if !is_refused {
                        self.enter(block, if done { new } else { layout });
                    }
                }
            }
        }
    }

    /// Moves the end of a heap down or up.
    fn move_end(&mut self, random: &mut Random) {
        let index = random.below(self.heaps.len());
        let heap = self.heaps[index];
        let Some(end) = std::ptr::NonNull::new(heap.end()) else {
            return;
        };
        // SAFETY: a heap ends there, and the pages above, up to their end, are this allocator's.
        unsafe {
            if self.talc.reserved(end).any {
                let end = if random.below(2) == 0 {
                    self.talc.truncate(end, null_mut()).unwrap()
                } else {
                    let memory = &self.memory[index];
                    self.talc.extend(end, memory.base().add(memory.size()))
                };
                self.heaps[index] = Span::new(heap.base(), end.as_ptr());
            }
        }
    }

    /// Returns whether a byte is metadata: neither in a block nor unused.
    fn is_metadata(&self, address: usize) -> bool {
        let Some(index) = self
            .heaps
            .iter()
            .position(|heap| heap.contains(std::ptr::without_provenance_mut(address)))
        else {
            return false;
        };
        let first = first_of(self.heaps[index]);
        let is_in_block = |&(block, layout): &(*mut u8, Layout)| {
            (block.addr()..block.addr() + layout.size()).contains(&address)
        };
        let heads_end = first + HEADS + 1;
        // Unused are the bytes below the record, and those above the owner flag in the chunk of the
        // list heads, except its tag.
        let is_unused = address < first - HEAP_OVERHEAD
            || index == 0 && (heads_end..metadata_end(first) - WORD).contains(&address);
        !is_unused && !self.blocks.iter().any(is_in_block)
    }

    fn is_in_record(&self, address: usize) -> bool {
        self.heaps.iter().any(|&heap| {
            let first = first_of(heap);
            (first - HEAP_OVERHEAD..first - WORD).contains(&address)
        })
    }

    fn is_in_heads(&self, address: usize) -> bool {
        let first = first_of(self.heaps[0]);
        (first..first + HEADS).contains(&address)
    }

    /// Returns an address of metadata in most cases, or else any.
    fn random_address(&self, random: &mut Random) -> *mut u8 {
        let index = random.below(self.heaps.len());
        let heap = self.heaps[index];
        let offset = match random.below(4) {
            0 => first_of(heap) - heap.base().addr() - 1 - random.below(HEAP_OVERHEAD),
            1 => first_of(self.heaps[0]) - self.heaps[0].base().addr() + random.below(HEADS),
            2 if !self.blocks.is_empty() => {
                let (block, layout) = self.blocks[random.below(self.blocks.len())];
                let beside = random.below(64);
                let near = if random.below(2) == 0 {
                    block.addr() - 1 - beside
                } else {
                    block.addr() + layout.size() + beside
                };
                match self
                    .heaps
                    .iter()
                    .find(|it| it.contains(std::ptr::without_provenance_mut(near)))
                {
                    Some(heap) => return heap.base().with_addr(near),
                    None => 0,
                }
            }
            _ => random.below(heap.size()),
        };
        let heap = if offset < heap.size() {
            heap
        } else {
            self.heaps[0]
        };
        heap.base().wrapping_add(offset)
    }

    /// Overwrites a byte, a word or a run of bytes. Returns the addresses of changed bytes.
    fn corrupt(&mut self, random: &mut Random) -> Vec<usize> {
        let place = self.random_address(random);
        let (place, length) = match random.below(4) {
            0 => (place, 1),
            1..3 => (place.wrapping_sub(place.addr() % WORD), WORD),
            _ => (place, 1 + random.below(200)),
        };
        let memory = self
            .memory
            .iter()
            .find(|memory| memory.contains(place.addr()))
            .unwrap();
        let room = memory.base().addr() + memory.size() - place.addr();
        let length = length.min(room);
        let words = [
            0,
            1,
            usize::MAX,
            random.word() as usize,
            // Plausible values: addresses of blocks, gaps and heads, or near them.
            self.random_address(random).addr(),
            self.random_address(random).addr() & !15,
        ];
        let word = words[random.below(words.len())].to_ne_bytes();
        let mut changed = vec![];
        for index in 0..length {
            let at = place.wrapping_add(index);
            // SAFETY: the byte is in the mapped memory of a heap.
            let was = unsafe { at.read() };
            // SAFETY: the byte is in the mapped memory of a heap.
            unsafe { at.write(word[index % WORD]) };
            if was != word[index % WORD] {
                changed.push(at.addr());
            }
        }
        changed
    }

    /// Asserts that `check` finds changes outside blocks, and reports heap records and list heads
    /// as such.
    fn assert_found(&self, changed: &[usize], result: Result<(), Corruption>) {
        let any = |is_there: &dyn Fn(usize) -> bool| changed.iter().any(|&at| is_there(at));
        let rule = result.map_err(|corruption| corruption.rule);
        if !any(&|at| self.is_metadata(at)) {
            assert_eq!(rule, Ok(()));
        } else if any(&|at| self.is_in_record(at)) {
            let is_record = matches!(rule, Err(Rule::Misuse(Misuse::DamagedHeapRecord { .. })));
            assert!(is_record, "a record was overwritten: {rule:?}");
        } else if changed.iter().all(|&at| self.is_in_heads(at)) {
            let is_head = matches!(rule, Err(Rule::Misuse(Misuse::DamagedListHead { .. })));
            assert!(is_head, "a list head was overwritten: {rule:?}");
        } else {
            assert!(rule.is_err(), "{} bytes were changed", changed.len());
        }
    }

    /// Calls everything that inspects heaps.
    fn inspect(&self) {
        let _ = self.talc.check();
        let _ = (self.talc.gaps().count(), format!("{:?}", self.talc));
        for &heap in &self.heaps {
            let _ = self.talc.regions(heap).count();
            if let Some(end) = std::ptr::NonNull::new(heap.end()) {
                // SAFETY: a heap ends there.
                let _ = unsafe { self.talc.reserved(end) };
            }
        }
    }
}

fn first_of(heap: Span) -> usize {
    (heap.base().addr() + HEAP_OVERHEAD).next_multiple_of(heap::talc::base::CHUNK_UNIT)
}

fn metadata_end(first: usize) -> usize {
    first + super::chunk_size(HEADS + 1)
}

fn corrupt_at_random(seed: u64) {
    let mut random = Random::new(seed);
    let mut victim = Victim::new(&mut random);
    assert_eq!(victim.talc.check(), Ok(()));
    let changed = victim.corrupt(&mut random);
    victim.assert_found(&changed, victim.talc.check());
    let more = random.below(3) / 2 * random.below(4);
    for _ in 0..more {
        victim.corrupt(&mut random);
    }
    victim.inspect();
    for _ in 0..30 {
        match random.below(16) {
            0 => victim.move_end(&mut random),
            1 => victim.claim(&mut random),
            2 if more > 0 => drop(victim.corrupt(&mut random)),
            _ => victim.operate(&mut random),
        }
    }
    victim.inspect();
    while let Some((block, layout)) = victim.take(&mut random) {
        // SAFETY: the block is live, or was refused.
        unsafe { victim.talc.deallocate(block, layout) };
    }
    victim.inspect();
    for report in reports() {
        assert!(!report.to_string().is_empty());
    }
}

#[test]
fn check_finds_random_corruption_without_faulting() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    if let Some(seed) = number("HEAP_SEED") {
        return corrupt_at_random(seed);
    }
    let count = number("HEAP_CORRUPTIONS").unwrap_or(20_000);
    let tells = number("HEAP_TELL").is_some();
    for seed in 0..count {
        if tells {
            println!("seed {seed}");
        }
        let result = std::panic::catch_unwind(|| corrupt_at_random(seed));
        assert!(result.is_ok(), "HEAP_SEED={seed}");
    }
    println!("{count} corruptions");
}
