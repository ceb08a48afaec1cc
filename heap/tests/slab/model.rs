//! Random programs, compared with what they should find.

use crate::random::{Choices, Random};
use crate::support::{Block, Slabs, assert_all_is_back, layout, slabs};

fn random_size(random: &mut Random) -> usize {
    match random.below(8) {
        0 => 1 + random.below(5000),
        1 => 480 + random.below(40),
        _ => 1 + random.below(300),
    }
}

/// Runs one program, whose backing allocator sometimes refuses.
fn run(heap: &Slabs, random: &mut Random, operations: usize) {
    let mut blocks: Vec<Block> = Vec::new();
    // The program grows, then shrinks, and so on.
    let mut grows = true;
    for _ in 0..operations {
        if random.chance(200) {
            grows = !grows;
        }
        match random.below(16) {
            0 => heap.check().expect("the slabs are intact"),
            1 if random.chance(10) => heap.reap(),
            2 => {
                let refused = random.pick(&[0, 1, 3, usize::MAX, usize::MAX]);
                heap.backing().refuse_after(refused);
            }
            3 | 4 if !blocks.is_empty() => {
                let index = random.below(blocks.len());
                blocks[index].resize(heap, random_size(random));
            }
            choice if (choice < 12) == grows || blocks.is_empty() => {
                let align = random.pick(&[1, 1, 8, 16, 32, 64, 256, 1024]);
                blocks.extend(Block::new(heap, layout(random_size(random), align)));
            }
            _ => {
                let index = random.below(blocks.len());
                blocks.swap_remove(index).free(heap);
            }
        }
    }
    if random.chance(2) {
        blocks.reverse();
    }
    blocks.into_iter().for_each(|block| block.free(heap));
    heap.backing().refuse_after(usize::MAX);
    assert_all_is_back(heap);
}

#[test]
fn random_programs_find_their_contents() {
    let (programs, operations) = if cfg!(miri) { (2, 300) } else { (300, 3000) };
    let heap = slabs(1 << 20);
    for seed in 0..programs {
        run(&heap, &mut Random::new(seed), operations);
    }
}
