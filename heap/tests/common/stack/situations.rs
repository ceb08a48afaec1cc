//! Counts how often programs reach each situation.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! situations {
    ($($name:ident: $what:literal,)*) => {
        /// An interaction of the layers, observed from outside by what an operation changed.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Situation {
            $(#[doc = $what] $name,)*
        }

        /// Each with its description.
        const ALL: &[(Situation, &str)] = &[$((Situation::$name, $what),)*];
    };
}

situations! {
    Grown: "a heap grows in place",
    GrownByDemand: "a heap grows by what the layout requires, after its growth was refused",
    GrownFromQueue: "a heap takes back the queued pages above it",
    GrownPastQueue: "a heap takes back the queued pages, and grows further",
    ClaimedSecond: "a second heap is claimed",
    ClaimedThird: "a third heap, or one more, is claimed",
    TakenBack: "a deleted heap is taken back from the queue",
    RefusedThoughTopFits: "the source is asked and refuses though the top gap fits",
    AskedThoughTopFits: "the source is asked though the top gap fits",
    FoundAfterRefusal: "a gap is found after the source has refused",
    OutOfMemory: "an allocation fails",
    FoundAfterTrim: "a failed allocation succeeds after trim and drain",
    Lowered: "a heap's end goes down when a block is freed",
    Deleted: "a heap is deleted when its last block is freed",
    ResizedInPlace: "a block grows in place",
    Moved: "a block moves to grow",
    Trimmed: "trim lowers a heap's end",
    TrimDeleted: "trim deletes a heap",
    Drained: "drain gives pages back",
    DrainedNested: "drain is called during a drain",
    DrainAllocated: "during a shrink for the heap: a block is allocated in that heap",
    DrainClaimed: "during a shrink for the heap: another heap is claimed or grows",
    DrainResized: "during a shrink for the heap: a block grows in place in it",
    DrainFreed: "during a shrink for the heap: a block in it is freed",
    DrainLowered: "during a shrink for the heap: its end goes down",
    DrainTrimmed: "during a shrink for the heap: trim lowers its end",
    DrainDeleted: "during a shrink for the heap: it is deleted",
    ReleaseClaimed: "during a release of a deleted heap: a heap grows or is claimed",
    ReleaseDrained: "during a release of a deleted heap: drain gives other pages back",
    TagAllocated: "while a drain waits for a tag: a block is allocated",
    TagLowered: "while a drain waits for a tag: a heap's end goes down, or the heap is deleted",
    DrainBetween: "between a drain's steps, no lock held: a heap changes",
    AllocationBetween: "between an allocation's or a free's steps, no lock held: a heap changes",
    Requeued: "a drain fails, and the range is queued again",
    RequeuedMoved: "a drain fails after the heap's end has moved",
    RequeuedDeleted: "a drain fails after the heap was deleted",
    ShrinkRefused: "the source refuses to shrink a span for a drain",
    ReleaseRefused: "the source refuses to take back a span for a drain",
    ExtendRefused: "the source refuses to extend a span for a heap",
    ImportRefused: "the source refuses a span for a heap",
    TagsOutInGrowth: "tags run out while a heap grows or is claimed",
    TagsOutInDrain: "tags run out while a range is drained",
    HoleMade: "pages inside a heap go back",
    HoleGrown: "a hole grows into free memory beside it",
    HolesJoined: "two holes become one",
    HoleDecayed: "pages inside a heap go back after they have been free for a while",
    HoleRestored: "an allocation restores a whole hole",
    HoleRestoredInPart: "an allocation restores a part of a hole",
    HoleTrimmed: "trim gives up a hole at the top of a heap",
    HoleDeleted: "trim deletes a heap with a hole",
    HoleTagged: "a block is freed directly above a hole that ends with its pages",
    HoleTaggedInPunch: "the same, while pages inside a heap go back",
    HoleTaggedInGrowth: "the same, while a heap grows or a hole is restored",
    DiscardRefused: "the source refuses to take back pages inside a heap",
    RestoreRefused: "the source refuses to restore a hole",
    PunchAllocated: "while pages inside a heap go back: a block is allocated in that heap",
    PunchFreed: "while pages inside a heap go back: a block in it is freed",
    PunchTrimmed: "while pages inside a heap go back: trim lowers the heap's end",
    PunchedNested: "while pages inside a heap go back: other pages do",
    GrowthAllocated: "while a heap grows: a block is allocated in it",
    GrowthFreed: "while a heap grows: a block in it is freed",
    GrowthClaimed: "while a heap grows: another heap is claimed",
    GrowthFails: "an interrupted allocation's growth is refused",
    ImportClaimed: "while a heap is claimed: another heap is claimed",
    RestoreAllocated: "while a hole is restored: a block is allocated in its heap",
    RestoreFreed: "while a hole is restored: a block in its heap is freed",
    RestoreGrew: "while a hole is restored: a heap grows, or is claimed, or another hole is",
    TenantInExtend: "another user changes the arena while a heap's span is extended",
    TenantInImport: "another user changes the arena while a heap's span is imported",
    TenantInDrain: "another user changes the arena while a heap's span is shrunk or released",
    DroppedInUse: "a heap with blocks is dropped",
}

/// Situations that no program can reach with the features of this build.
const UNREACHABLE: &[Situation] = if cfg!(any(
    feature = "disable-grow-in-place",
    feature = "disable-realloc-in-place"
)) {
    &[Situation::ResizedInPlace, Situation::DrainResized]
} else {
    &[]
};

/// How often each situation was reached.
pub(crate) struct Situations([AtomicU64; ALL.len()]);

impl Situations {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; ALL.len()])
    }

    pub(crate) fn note(&self, situation: Situation) {
        self.0[situation as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn note_if(&self, condition: bool, situation: Situation) {
        if condition {
            self.note(situation);
        }
    }

    fn count(&self, situation: Situation) -> u64 {
        self.0[situation as usize].load(Relaxed)
    }

    /// A table of all of them.
    pub(crate) fn print(&self) {
        for &(situation, what) in ALL {
            println!("{:>12}  {what}", self.count(situation));
        }
    }

    /// Returns the situations that no program reached, although this build can reach them.
    pub(crate) fn missing(&self) -> Vec<Situation> {
        let all = ALL.iter().map(|&(situation, _)| situation);
        all.filter(|it| !UNREACHABLE.contains(it) && self.count(*it) == 0)
            .collect()
    }
}
