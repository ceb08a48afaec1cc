//! The session: the arenas by name, and the execution of commands.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ptr::NonNull;
use std::sync::Mutex;

use heap::vmem::{Arena, Page, PageSupply, SegmentKind, Source, TagPool};

use crate::command::{COMMANDS, Command};
use crate::draw;

/// Pages of the host.
pub(crate) struct HostPages;

// SAFETY: the host's allocator returns valid, aligned memory without another user.
unsafe impl PageSupply for HostPages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        // SAFETY: a page is not zero-sized.
        NonNull::new(unsafe { std::alloc::alloc(std::alloc::Layout::new::<Page>()) }.cast())
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: the page came from `allocate_page`, which used this layout.
        unsafe { std::alloc::dealloc(page.as_ptr().cast(), std::alloc::Layout::new::<Page>()) };
    }
}

type Tags = TagPool<Mutex<()>, HostPages>;
pub(crate) type SessionArena = Arena<'static, 'static, &'static Tags, Mutex<()>>;

static TAGS: Tags = TagPool::new(Mutex::new(()), HostPages);

/// The arenas by name. They live until the program ends, so that one can be the source of another.
#[derive(Default)]
pub(crate) struct Session(BTreeMap<String, &'static SessionArena>);

impl Session {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn arena(&self, name: &str) -> Result<&'static SessionArena, String> {
        let arena = self.0.get(name).copied();
        arena.ok_or_else(|| format!("no arena {name:?}"))
    }

    /// Executes a command, and returns the text to print.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn execute(&mut self, command: Command) -> Result<String, String> {
        let text = |error: heap::vmem::Error| error.to_string();
        match command {
            Command::Create(name, quantum, source) => {
                if self.0.contains_key(&name) {
                    return Err(format!("there is an arena {name:?}"));
                }
                let source = match source {
                    Some(source) => Some(self.arena(&source)? as &dyn Source),
                    None => None,
                };
                let label = String::leak(name.clone());
                let arena = Arena::create(label, quantum, source, &TAGS).map_err(text)?;
                self.0.insert(name, Box::leak(Box::new(arena)));
                Ok(String::new())
            }
            Command::Span(name, base, len) => {
                let arena = self.arena(&name)?;
                arena.add_span(base, len).map_err(text)?;
                Ok(draw::arena(arena))
            }
            Command::Alloc(name, layout, policy) => {
                let arena = self.arena(&name)?;
                let base = arena.xalloc(layout, policy).map_err(text)?;
                Ok(format!("{base:#x}\n{}", draw::arena(arena)))
            }
            Command::At(name, base, size) => {
                let arena = self.arena(&name)?;
                arena.xalloc_at(base, size).map_err(text)?;
                Ok(draw::arena(arena))
            }
            Command::Free(name, base, size) => {
                let arena = self.arena(&name)?;
                let freed = match size {
                    Some(size) => arena.free_sized(base, size),
                    None => arena.free(base),
                };
                freed.map_err(text)?;
                Ok(draw::arena(arena))
            }
            Command::Resize(name, base, size) => {
                let arena = self.arena(&name)?;
                arena.resize(base, size).map_err(text)?;
                Ok(draw::arena(arena))
            }
            Command::Where(name, address) => {
                let segment = self.arena(&name)?.segment_of(address);
                Ok(match segment {
                    Some(segment) => format!(
                        "{:#x} to {:#x}, {}, in the span from {:#x} to {:#x}\n",
                        segment.base,
                        segment.last,
                        match segment.kind {
                            SegmentKind::Free => "free",
                            SegmentKind::Allocated => "allocated",
                        },
                        segment.span.base,
                        segment.span.last,
                    ),
                    None => "in no span\n".into(),
                })
            }
            Command::Trim(name) => {
                let arena = self.arena(&name)?;
                let released = arena.trim();
                Ok(format!("{released:#x} released\n{}", draw::arena(arena)))
            }
            Command::Check(name) => match self.arena(&name)?.check() {
                Ok(()) => Ok("no corruption\n".into()),
                Err(corruption) => Err(corruption.to_string()),
            },
            Command::Show(Some(name)) => Ok(draw::arena(self.arena(&name)?)),
            Command::Show(None) => Ok(self.0.values().map(|arena| draw::arena(arena)).collect()),
            Command::Help => {
                let mut help = String::new();
                for (name, arguments, what) in COMMANDS {
                    let _ = writeln!(help, "  {name} {arguments}\n      {what}");
                }
                help += "Numbers: 4096, 0x1000, 4k; also m, g and t.\n";
                Ok(help)
            }
            Command::Quit => Ok(String::new()),
        }
    }
}
