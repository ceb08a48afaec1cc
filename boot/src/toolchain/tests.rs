use super::*;
use crate::packages::scripts::{calls, script};

/// A machine for one test: a root for Debian's files, a folder for rustup's toolchains, and scripts
/// that stand in for the installers and log their calls.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(world.at("toolchains")).unwrap();
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn touch(&self, path: &str) {
        let file = self.at(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }

    /// Gives rustup a toolchain with all parts but those whose names contain one of `missing`.
    fn add_rustup_toolchain(&self, name: &str, missing: &[&str]) {
        let host = host_triple();
        let tools = format!("lib/rustlib/{host}/bin");
        for file in [
            "bin/cargo",
            "bin/rustc",
            "lib/rustlib/src/rust/library/core/Cargo.toml",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain(["llvm-objcopy", "llvm-objdump", "rust-lld"].map(|tool| format!("{tools}/{tool}")))
        .filter(|file| !missing.iter().any(|part| file.contains(part)))
        {
            self.touch(&format!("toolchains/{name}/{file}"));
        }
    }

    /// Returns a shell command that installs Debian's compiler of `version`.
    fn debian_recipe(&self, version: &str) -> String {
        let usr = self.at("debian/usr");
        let usr = usr.display();
        format!(
            "mkdir -p {usr}/bin {usr}/lib/rustlib/{host}/lib {usr}/lib/rustlib/src/rust/library/core
             touch {usr}/lib/rustlib/src/rust/library/core/Cargo.toml
             for program in cargo rustdoc lld llvm-objcopy llvm-objdump; do
                 touch {usr}/bin/$program
             done
             printf '#!/bin/sh\\necho rustc {version}\\n' > {usr}/bin/rustc
             chmod +x {usr}/bin/rustc",
            host = host_triple()
        )
    }

    fn install_debian(&self, version: &str) {
        let status = Command::new("sh")
            .arg("-c")
            .arg(self.debian_recipe(version))
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn search(&self) -> Search {
        let program = |name: &str| Some(self.at(name)).filter(|file| file.is_file());
        Search {
            named: None,
            rustup_toolchains: Some(self.at("toolchains")),
            rustup: program("rustup"),
            debian: Debian::new(self.at("debian"), self.at("assembled")),
            apt_get: program("apt-get").map(AptGet::at),
        }
    }

    fn pick_named(&self, name: &str) -> Result<Toolchain, Failure> {
        Search {
            named: Some(name.into()),
            ..self.search()
        }
        .pick()
    }

    fn debian(&self) -> Toolchain {
        Toolchain::Folder {
            root: self.at("assembled"),
            name: "Debian's rustc 1.96.0".into(),
        }
    }
}

fn refusal(result: Result<Toolchain, Failure>) -> String {
    let failure = result.unwrap_err();
    assert!(matches!(failure, Failure::NoToolchain(_)), "{failure}");
    failure.to_string()
}

#[test]
fn the_users_choice_comes_first() {
    let world = World::new();
    world.add_rustup_toolchain(&format!("nightly-2026-01-01-{}", host_triple()), &[]);
    world.add_rustup_toolchain("mine", &[]);
    assert_eq!(
        world.pick_named("mine").unwrap(),
        Toolchain::Rustup("mine".into())
    );
    // rustup accepts a name without the host's triple.
    assert_eq!(
        world.pick_named("nightly-2026-01-01").unwrap(),
        Toolchain::Rustup("nightly-2026-01-01".into())
    );
    let folder = world.at("toolchains/mine");
    let picked = world.pick_named(folder.to_str().unwrap()).unwrap();
    assert!(matches!(picked, Toolchain::Folder { root, .. } if root == folder));
}

#[test]
fn an_incomplete_choice_of_the_user_is_refused() {
    let world = World::new();
    world.install_debian("1.96.0");
    world.add_rustup_toolchain("bare", &["rust/library"]);
    assert!(refusal(world.pick_named("bare")).contains("lacks cargo, rust-src or llvm-tools"));
    assert!(refusal(world.pick_named("nosuch")).contains("rustup has no such toolchain"));
}

#[test]
fn a_complete_nightly_comes_first_and_the_pinned_one_before_all() {
    let world = World::new();
    world.install_debian("1.96.0");
    world.add_rustup_toolchain("stable", &[]);
    world.add_rustup_toolchain("nightly", &["rust/library"]);
    world.add_rustup_toolchain("nightly-2026-06-01", &["llvm-objcopy"]);
    assert_eq!(world.search().pick().unwrap(), world.debian());
    world.add_rustup_toolchain("nightly-2026-04-01", &[]);
    world.add_rustup_toolchain("nightly-2026-07-01", &[]);
    assert_eq!(
        world.search().pick().unwrap(),
        Toolchain::Rustup("nightly-2026-07-01".into())
    );
    world.add_rustup_toolchain(PINNED_NIGHTLY, &[]);
    assert_eq!(
        world.search().pick().unwrap(),
        Toolchain::Rustup(PINNED_NIGHTLY.into())
    );
}

#[test]
fn debians_packages_are_installed_only_once() {
    let world = World::new();
    script(
        &world.at("apt-get"),
        &format!(
            "case \"$*\" in *install*) {} ;; esac",
            world.debian_recipe("1.96.0")
        ),
    );
    assert_eq!(world.search().pick().unwrap(), world.debian());
    let packages = Debian::PACKAGES.join(" ");
    let install = format!("-qq install --yes --no-remove --no-install-recommends {packages}");
    assert_eq!(calls(&world.at("apt-get")), ["-qq update", &install]);
    // The second time, nothing is installed and nothing is written.
    let written = fs::metadata(world.at("assembled/bin/rustc"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(world.search().pick().unwrap(), world.debian());
    assert_eq!(calls(&world.at("apt-get")).len(), 2);
    assert_eq!(
        fs::metadata(world.at("assembled/bin/rustc"))
            .unwrap()
            .modified()
            .unwrap(),
        written
    );
}

#[test]
fn the_assembled_toolchain_is_complete_and_is_the_sysroot() {
    let world = World::new();
    world.install_debian("1.96.0");
    // A wrong link of an earlier run is replaced.
    fs::create_dir_all(world.at("assembled/bin")).unwrap();
    std::os::unix::fs::symlink("/nowhere", world.at("assembled/bin/cargo")).unwrap();
    world.search().pick().unwrap();
    assert!(is_complete(&world.at("assembled")));
    let rustc = fs::read_to_string(world.at("assembled/bin/rustc")).unwrap();
    assert!(
        rustc.contains(&format!("--sysroot '{}'", world.at("assembled").display())),
        "{rustc}"
    );
}

#[test]
fn the_pinned_nightly_replaces_a_compiler_that_is_too_old() {
    let world = World::new();
    world.install_debian("1.85.0");
    script(&world.at("apt-get"), "");
    script(&world.at("rustup"), "");
    assert_eq!(
        world.search().pick().unwrap(),
        Toolchain::Rustup(PINNED_NIGHTLY.into())
    );
    let [call] = &calls(&world.at("rustup"))[..] else {
        panic!("rustup was not called once")
    };
    assert!(
        call.starts_with(&format!("toolchain install {PINNED_NIGHTLY}")),
        "{call}"
    );
}

#[test]
fn without_a_network_one_line_names_failures_and_packages() {
    let world = World::new();
    script(
        &world.at("apt-get"),
        "echo 'W: lists are old'; echo 'E: Unable to locate package rustc-web'; exit 100",
    );
    script(
        &world.at("rustup"),
        "echo 'info: syncing'; echo 'error: could not download file'; exit 1",
    );
    let message = refusal(world.search().pick());
    assert!(
        message.contains("apt-get: E: Unable to locate package rustc-web"),
        "{message}"
    );
    assert!(
        message.contains("rustup: error: could not download file"),
        "{message}"
    );
    assert!(
        message.contains(PINNED_NIGHTLY) && message.contains("rust-web-src"),
        "{message}"
    );
    assert!(!message.contains('\n'), "{message}");
    assert!(!world.at("assembled").exists());
}

#[test]
fn without_an_installer_the_message_says_so() {
    let message = refusal(World::new().search().pick());
    assert!(
        message.contains("there is no apt-get; there is no rustup"),
        "{message}"
    );
}
