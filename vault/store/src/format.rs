//! The `FORMAT` file: what store this is, and which features it uses.
//!
//! Layout: `docs/formats/store.md`. Text, so that a person with a rescue disk can read it.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::ids::{StoreId, Timestamp, hex16};

/// Its name.
pub(crate) const FORMAT_NAME: &str = "FORMAT";

/// Longest file that is read, in bytes.
pub(crate) const MAX_FORMAT_BYTES: u64 = 64 << 10;

/// Features that this program knows; none so far.
const KNOWN_FEATURES: [&str; 0] = [];

/// What a store says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreFormat {
    pub(crate) store: StoreId,
    pub(crate) created: Timestamp,
    /// Refuse the store where one of these is unknown.
    pub(crate) incompatible: BTreeSet<String>,
    /// Open it only for reading where one of these is unknown.
    pub(crate) read_compatible: BTreeSet<String>,
    /// Ignore the unknown among these.
    pub(crate) compatible: BTreeSet<String>,
}

impl StoreFormat {
    /// Makes the format of a new store.
    pub(crate) fn new(store: StoreId, created: Timestamp) -> Self {
        Self {
            store,
            created,
            incompatible: BTreeSet::new(),
            read_compatible: BTreeSet::new(),
            compatible: BTreeSet::new(),
        }
    }

    /// Encodes it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let join = |set: &BTreeSet<String>| {
            set.iter().map(|feature| format!(" {feature}")).collect::<String>()
        };
        let text = format!(
            "UMBRASTO 1\nid {}\ncreated {}\nincompatible{}\nread-compatible{}\ncompatible{}\n",
            self.store,
            self.created.0,
            join(&self.incompatible),
            join(&self.read_compatible),
            join(&self.compatible),
        );
        let check = blake3::hash(text.as_bytes());
        format!("{text}check {check}\n").into_bytes()
    }

    /// Decodes it.
    ///
    /// # Errors
    /// [`Error::NotAStore`] where the magic is missing, `Unsupported` for another version,
    /// `Corrupt`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let not_a_store = Error::NotAStore { reason: "its FORMAT file is not that of a store" };
        let Some(rest) = bytes.strip_prefix(b"UMBRASTO ") else { return Err(not_a_store) };
        let version = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if version != b"1" {
            return Err(Error::Unsupported {
                what: "store version",
                path: FORMAT_NAME.to_owned(),
                found: String::from_utf8_lossy(version).into_owned(),
                known: "1".to_owned(),
            });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt("it is not text"))?;
        let check_at = text.rfind("check ").ok_or_else(|| corrupt("its check is missing"))?;
        let (covered, check) = text.split_at_checked(check_at).unwrap_or_default();
        if check != format!("check {}\n", blake3::hash(covered.as_bytes())) {
            return Err(corrupt("its check is wrong"));
        }
        let mut lines = covered.lines().skip(1);
        let mut value = |name: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name));
            line.ok_or_else(|| corrupt("a line is missing"))
        };
        let store = hex16(value("id ")?).ok_or_else(|| corrupt("its id is wrong"))?;
        let created = value("created ")?.parse().map_err(|_| corrupt("its time is wrong"))?;
        let mut set =
            |name| value(name).map(|line| line.split_whitespace().map(str::to_owned).collect());
        Ok(Self {
            store: StoreId(store),
            created: Timestamp(created),
            incompatible: set("incompatible")?,
            read_compatible: set("read-compatible")?,
            compatible: set("compatible")?,
        })
    }

    /// Refuses what this program does not know.
    ///
    /// # Errors
    /// `Unsupported` naming the features.
    pub(crate) fn check_features(&self, for_writing: bool) -> Result<()> {
        let refuse = |what, set: &BTreeSet<String>| {
            let unknown = |feature: &&String| !KNOWN_FEATURES.contains(&feature.as_str());
            let unknown: Vec<&str> = set.iter().filter(unknown).map(String::as_str).collect();
            if unknown.is_empty() {
                return Ok(());
            }
            Err(Error::Unsupported {
                what,
                path: FORMAT_NAME.to_owned(),
                found: unknown.join(" "),
                known: KNOWN_FEATURES.join(" "),
            })
        };
        refuse("incompatible feature", &self.incompatible)?;
        if for_writing {
            refuse("feature that writing needs", &self.read_compatible)?;
        }
        Ok(())
    }
}

fn corrupt(reason: &'static str) -> Error {
    Error::Corrupt { what: "the store's format", path: FORMAT_NAME.to_owned(), at: 0, reason }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn format() -> StoreFormat {
        StoreFormat::new(StoreId([0xab; 16]), Timestamp(1_700_000_000_000_000_000))
    }

    #[test]
    fn round_trip_and_flips() {
        let good = format().encode();
        assert_eq!(StoreFormat::decode(&good).unwrap(), format());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(StoreFormat::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(StoreFormat::decode(&good[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn unknown_features() {
        let mut format = format();
        format.compatible.insert("shiny".to_owned());
        format.check_features(true).unwrap();
        format.read_compatible.insert("parity".to_owned());
        format.check_features(false).unwrap();
        assert!(format.check_features(true).is_err());
        format.incompatible.insert("frames".to_owned());
        let error = format.check_features(false).unwrap_err();
        assert!(matches!(error, Error::Unsupported { found, .. } if found == "frames"));
        assert_eq!(StoreFormat::decode(&format.encode()).unwrap(), format);
    }

    #[test]
    fn another_version_is_named() {
        let text = String::from_utf8(format().encode()).unwrap();
        let newer = text.replace("UMBRASTO 1", "UMBRASTO 2");
        let error = StoreFormat::decode(newer.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { found, .. } if found == "2"));
    }
}
