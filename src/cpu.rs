//! Instruction sets that some loops are compiled for. Results are the same with all of them.

use std::sync::OnceLock;

/// Names the best one that may be used, by its [`Isa::name`].
const VARIABLE: &str = "LMFS_CPU";

/// Each has what those before it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// That of every processor of the architecture.
    Scalar,
    /// AVX2, BMI1 and BMI2.
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512Vnni,
}

impl Isa {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512Vnni];

    /// The best one of this CPU that may be used.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let allowed = std::env::var(VARIABLE).map_or(Self::Avx512Vnni, |name| {
                Self::ALL.into_iter().find(|isa| isa.name() == name).unwrap_or_else(|| {
                    log::warn!("{VARIABLE}={name}: no such instruction set; all are used");
                    Self::Avx512Vnni
                })
            });
            let usable = |isa: &Self| *isa <= allowed && isa.available();
            Self::ALL.into_iter().rev().find(usable).unwrap_or(Self::Scalar)
        })
    }

    /// True where this CPU has it.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Self::Scalar => true,
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("bmi1")
                    && is_x86_feature_detected!("bmi2")
            }
            Self::Avx512Vnni => {
                Self::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Self::Scalar;
    }

    /// Name for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }
}
