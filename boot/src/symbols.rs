//! The functions, files and lines behind addresses of the kernel.

use std::{
    env,
    fmt::Write,
    path::{Path, PathBuf},
};

use addr2line::Loader;
use kernel_protocol::address::KERNEL_BASE;

/// The symbols of a kernel. Its ELF file is read when the first address is looked up.
#[derive(Default)]
pub(crate) struct Symbols {
    /// The ELF file, until it is read.
    kernel: Option<PathBuf>,
    loader: Option<Loader>,
}

impl Symbols {
    /// Returns the symbols of the ELF file `kernel`.
    pub(crate) fn of(kernel: &Path) -> Self {
        Self {
            kernel: Some(kernel.into()),
            loader: None,
        }
    }

    /// Returns the lines for the frame `number` of a backtrace, which executes an instruction at
    /// `address`. A frame has a line for the function, and one for each function into which the
    /// compiler inlined it. An unknown address is returned as it is.
    pub(crate) fn frame(&mut self, number: usize, address: u64) -> String {
        let names = self.names(address);
        if names.is_empty() {
            return format!("{number:4}: {address:#x}\n");
        }
        let mut lines = String::new();
        for (index, name) in names.iter().enumerate() {
            let written = match index {
                0 => writeln!(lines, "{number:4}: {name}"),
                _ => writeln!(lines, "      {name}"),
            };
            written.expect("writing to a string does not fail");
        }
        lines
    }

    /// Returns each function at `address`, the innermost first, with file and line where they are
    /// known.
    fn names(&mut self, address: u64) -> Vec<String> {
        if let Some(kernel) = self.kernel.take() {
            // Without a file that can be read, all addresses are unknown.
            self.loader = Loader::new(kernel).ok();
        }
        let (Some(loader), Some(probe)) = (&self.loader, address.checked_sub(KERNEL_BASE)) else {
            return Vec::new();
        };
        // The names of functions, and where each is in the source.
        let mut names: Vec<(String, String)> = Vec::new();
        // After an error, the frames before it are still useful.
        if let Ok(mut frames) = loader.find_frames(probe) {
            while let Ok(Some(frame)) = frames.next() {
                let Some(function) = frame.function.as_ref().and_then(|it| it.demangle().ok())
                else {
                    continue;
                };
                let place = frame.location.and_then(|place| {
                    Some(format!(" at {}:{}", relative(place.file?), place.line?))
                });
                names.push((function.into_owned(), place.unwrap_or_default()));
            }
        }
        // Line tables have functions without their modules, and code such as assembly is not in
        // them. The symbol of the outermost function has its whole name.
        if let Some(symbol) = loader.find_symbol(probe) {
            let function = addr2line::demangle_auto(symbol.into(), None).into_owned();
            match names.last_mut() {
                Some((name, _)) => *name = function,
                None => names.push((function, String::new())),
            }
        }
        names
            .into_iter()
            .map(|(function, place)| without_generics(&function) + &place)
            .collect()
    }
}

/// Returns the name of a function without generic arguments: those of a heap take a thousand
/// characters. The type and trait in `<Type as Trait>::method` stay.
fn without_generics(name: &str) -> String {
    let mut kept = String::new();
    // How many generic arguments contain the next character.
    let mut depth = 0_usize;
    let mut before = ' ';
    for character in name.chars() {
        // A name or `::` before it tells generic arguments from `<Type as Trait>`.
        let follows_name =
            before.is_alphanumeric() || matches!(before, '_' | '}' | ')' | ']' | ':' | '>');
        match character {
            '<' if depth > 0 || follows_name => {
                depth += 1;
                kept.truncate(kept.trim_end_matches("::").len());
            }
            '>' if before == '-' && depth == 0 => kept.push('>'),
            '>' if before == '-' => {}
            '>' if depth > 0 => depth -= 1,
            _ if depth > 0 => {}
            _ => kept.push(character),
        }
        before = character;
    }
    kept
}

/// Returns a short path of `file`: from the current folder or the repository, if it is there, and
/// from the crate for sources of the standard library and of crates.io.
fn relative(file: &str) -> &str {
    for begin in ["/lib/rustlib/src/rust/library/", "/registry/src/"] {
        if let Some((_, rest)) = file.split_once(begin) {
            // The folder of a registry has a name and a hash.
            let is_registry = begin.starts_with("/registry");
            return match rest.split_once('/') {
                Some((_, rest)) if is_registry => rest,
                _ => rest,
            };
        }
    }
    let current = env::current_dir().ok();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let folders = current.as_deref().into_iter().chain(repository);
    folders
        .filter_map(|folder| Path::new(file).strip_prefix(folder).ok()?.to_str())
        .next()
        .unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use std::{fs, hint::black_box};

    use object::{Object, ObjectSymbol};

    use super::*;

    #[inline(never)]
    fn outer() -> u64 {
        black_box(inner() + 1)
    }

    #[inline(always)]
    fn inner() -> u64 {
        black_box(7)
    }

    /// Returns the lines for each address of `outer`, in this program, where a kernel would be.
    fn lines_of_outer() -> Vec<String> {
        assert_eq!(outer(), 8);
        let program = env::current_exe().unwrap();
        let bytes = fs::read(&program).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let is_outer = |name: &str| name.contains("symbols") && name.contains("5outer");
        let symbol = file
            .symbols()
            .find(|symbol| symbol.name().is_ok_and(is_outer))
            .unwrap();
        let mut symbols = Symbols::of(&program);
        let addresses = symbol.address()..symbol.address() + symbol.size();
        addresses
            .map(|address| symbols.frame(3, KERNEL_BASE + address))
            .collect()
    }

    #[test]
    fn a_frame_is_function_file_and_line_with_inlined_ones() {
        let all = lines_of_outer();
        let first = "   3: boot::symbols::tests::outer at ";
        assert!(
            all[0].starts_with(first) && all[0].contains("src/symbols.rs:"),
            "{}",
            all[0]
        );
        assert_eq!(all[0].lines().count(), 1);
        let inlined = |lines: &String| {
            lines.contains(" boot::symbols::tests::inner at ")
                && lines.contains("\n      boot::symbols::tests::outer at ")
        };
        assert!(all.iter().any(inlined), "{all:?}");
    }

    #[test]
    fn an_unknown_address_is_shown_as_it_is() {
        let mut none = Symbols::default();
        assert_eq!(none.frame(12, 0x1234), "  12: 0x1234\n");
        let mut missing = Symbols::of(Path::new("/nonexistent"));
        let address = KERNEL_BASE + 16;
        assert_eq!(missing.frame(0, address), "   0: 0xffff800000000010\n");
        let mut program = Symbols::of(&env::current_exe().unwrap());
        for address in [0, KERNEL_BASE - 1, u64::MAX] {
            assert_eq!(program.frame(0, address), format!("   0: {address:#x}\n"));
        }
    }

    #[test]
    fn names_have_no_generic_arguments() {
        for (name, expected) in [
            ("main", "main"),
            ("with<heap::Lock<u8>, (), {closure#0}>", "with"),
            (
                "core::ptr::drop_in_place::<Vec<u8>>",
                "core::ptr::drop_in_place",
            ),
            (
                "<heap::Heap<R, 64> as Alloc<u8>>::dealloc::<u8>",
                "<heap::Heap as Alloc>::dealloc",
            ),
            ("<a::B>::new", "<a::B>::new"),
            (
                "<fn(u8) -> u8 as Fn<(u8,)>>::call",
                "<fn(u8) -> u8 as Fn>::call",
            ),
            (
                "run::<fn(&[T]) -> Vec<T>, u8>::{closure#0}",
                "run::{closure#0}",
            ),
            ("<[T] as A<B>>::c", "<[T] as A>::c"),
            ("{impl#2}::with<A>::inner", "{impl#2}::with::inner"),
        ] {
            assert_eq!(without_generics(name), expected);
        }
    }

    #[test]
    fn paths_are_short_where_the_folder_is_known() {
        let folder = env::current_dir().unwrap();
        let file = folder.join("src/main.rs");
        assert_eq!(relative(file.to_str().unwrap()), "src/main.rs");
        assert_eq!(relative("/nonexistent/main.rs"), "/nonexistent/main.rs");
        let library = "/x/target/toolchain/lib/rustlib/src/rust/library/core/src/panicking.rs";
        assert_eq!(relative(library), "core/src/panicking.rs");
        let crates = "/root/.cargo/registry/src/index.crates.io-19/spin-0.12.3/src/once.rs";
        assert_eq!(relative(crates), "spin-0.12.3/src/once.rs");
    }
}
