//! Which kernels a device takes for the clip loss: those of `hopper.rs` or the portable ones.

use super::kernels;
use super::probe::DeviceInfo;
use crate::error::{Error, Result};

/// Which kernels compute the clip loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelSet {
    /// As the environment variable `UNICON_CUDA_KERNELS` says (`portable`, `hopper` or `auto`); without it, or with `auto`,
    /// what is known to be best on the device: the portable ones, until the others have been measured.
    #[default]
    Auto,
    /// Those for every device (`mma.sync`).
    Portable,
    /// Those for compute capability 9.0 (`wgmma`); an error on other devices. Where the device has no room for their packed
    /// operands, or embeddings have more than 256 columns (128 in fp32 mode), the portable ones do the work, with other
    /// roundings.
    Hopper,
}

/// What [`KernelSet::Auto`] is on compute capability 9.0.
const AUTO: KernelSet = KernelSet::Portable;

impl KernelSet {
    /// The name that `UNICON_CUDA_KERNELS` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Portable => "portable",
            Self::Hopper => "hopper",
        }
    }

    /// Whether a device can take these kernels.
    pub fn runs_on(self, info: &DeviceInfo) -> bool {
        self != Self::Hopper || why_not(info).is_none()
    }

    /// Whether a device takes the Hopper kernels.
    pub(super) fn is_hopper(self, info: &DeviceInfo) -> Result<bool> {
        let (set, asked) = match self {
            Self::Auto => (Self::of_environment()?, "UNICON_CUDA_KERNELS=hopper"),
            set => (set, "the Hopper kernels"),
        };
        match set {
            Self::Auto => Ok(AUTO == Self::Hopper && AUTO.runs_on(info)),
            Self::Portable => Ok(false),
            Self::Hopper => match why_not(info) {
                None => Ok(true),
                Some(why) => Err(Error::Unsupported(format!("CUDA: {asked}: {why}"))),
            },
        }
    }

    fn of_environment() -> Result<Self> {
        let Some(value) = std::env::var_os("UNICON_CUDA_KERNELS") else { return Ok(Self::Auto) };
        let value = value.to_string_lossy();
        [Self::Auto, Self::Portable, Self::Hopper].into_iter().find(|set| set.name() == value).ok_or_else(
            || Error::invalid("UNICON_CUDA_KERNELS", "portable, hopper or auto", format!("`{value}`")),
        )
    }
}

/// Why a device cannot take the Hopper kernels.
fn why_not(info: &DeviceInfo) -> Option<String> {
    let (major, minor) = info.capability;
    if (major, minor) != (9, 0) {
        let ordinal = info.ordinal;
        return Some(format!("compute capability 9.0 is needed, cuda:{ordinal} has {major}.{minor}"));
    }
    (!kernels::has("hopper_stats"))
        .then(|| "this build has none (its architectures do not include 90a)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_taken_only_where_it_runs() {
        let info = |major, minor| DeviceInfo {
            ordinal: 1,
            name: "a device".into(),
            memory: 1 << 30,
            capability: (major, minor),
            processors: 4,
            shared_memory: 227 << 10,
            driver: 13000,
        };
        assert!(!KernelSet::Portable.is_hopper(&info(9, 0)).expect("everywhere"));
        let refused = KernelSet::Hopper.is_hopper(&info(8, 6)).expect_err("another architecture").to_string();
        assert!(refused.contains("cuda:1 has 8.6"), "{refused}");
    }
}
