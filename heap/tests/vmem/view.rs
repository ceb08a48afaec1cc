//! A read-only view returns what the arena returns.

use heap::vmem::{AllocPolicy, Arena};

use super::support::*;

#[test]
fn a_view_returns_what_the_arena_returns() {
    static TAGS: Tags = Tags::new();
    let arena: TestArena = Arena::create("seen", 0x1000, None, &TAGS).unwrap();
    let view = arena.view();
    assert_eq!((view.label(), view.quantum()), ("seen", 0x1000));
    arena.add_span(0x1_0000, 0x8000).unwrap();
    let base = arena.alloc(0x3000, AllocPolicy::InstantFit).unwrap();
    assert_eq!(view.total_space(), 0x8000);
    assert_eq!(
        (view.allocated_space(), view.free_space()),
        (0x3000, 0x5000)
    );
    assert_eq!((view.borrowed_space(), view.largest_free()), (0, 0x5000));
    assert!(view.contains(0x1_7fff) && !view.contains(0x1_8000));
    let segment = view.segment_of(base).unwrap();
    assert_eq!((segment.base, segment.last), (base, base + 0x2fff));
    assert_eq!(view.try_segment_of(base), Some(Some(segment)));
    assert!(view.segments().eq(arena.segments()));
    assert_eq!(view.check(), Ok(()));
    assert_eq!(format!("{view:?}"), format!("{arena:?}"));
    arena.free(base).unwrap();
    assert_eq!(view.allocated_space(), 0);
}
