//! Finds OVMF, the UEFI firmware for virtual machines.

use std::path::{Path, PathBuf};

/// A build of OVMF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ovmf {
    /// The file of its code. It is read-only.
    pub code: PathBuf,
    /// The file of its non-volatile variables, in the state of a new machine.
    pub variables: PathBuf,
}

/// The paths of code and variables in distributions.
const PATHS: &[(&str, &str)] = &[
    // Debian and Ubuntu
    ("usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd"),
    (
        "usr/share/OVMF/OVMF_CODE_4M.fd",
        "usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    // Fedora
    (
        "usr/share/edk2/ovmf/OVMF_CODE.fd",
        "usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
    // Arch
    (
        "usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
];

impl Ovmf {
    /// Returns the first build that is installed below `root`.
    pub(crate) fn find(root: &Path) -> Option<Self> {
        PATHS
            .iter()
            .map(|(code, variables)| Self {
                code: root.join(code),
                variables: root.join(variables),
            })
            .find(|ovmf| ovmf.code.is_file() && ovmf.variables.is_file())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn code_without_variables_is_no_firmware() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/share/OVMF")).unwrap();
        let file = |name: &str| root.path().join("usr/share/OVMF").join(name);
        assert_eq!(Ovmf::find(root.path()), None);
        fs::write(file("OVMF_CODE.fd"), "").unwrap();
        assert_eq!(Ovmf::find(root.path()), None);
        fs::write(file("OVMF_CODE_4M.fd"), "").unwrap();
        fs::write(file("OVMF_VARS_4M.fd"), "").unwrap();
        let found = Ovmf::find(root.path()).unwrap();
        assert_eq!(
            (found.code, found.variables),
            (file("OVMF_CODE_4M.fd"), file("OVMF_VARS_4M.fd"))
        );
    }
}
