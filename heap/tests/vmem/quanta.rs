//! Sources whose quantum is coarser than the arena's.
