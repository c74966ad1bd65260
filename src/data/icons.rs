//! Pictures and words of open icon sets that come with the crate.

use std::io::{Cursor, Read};

use zip::ZipArchive;

use crate::error::{Error, Result};
use crate::io::{HostMatrix, RowSource, parse_index_vector, parse_npy, read_all};
use crate::positives::Positives;

/// Pictures and captions of 3,026 concepts from open icon sets, as features: up to four pictures and two to five captions of each.
///
/// Principal components of EfficientNet-Lite0 (pictures) and all-MiniLM-L6-v2 (captions); sources, licences and how the bundled
/// files were made are in `data/icons/README.md`.
#[derive(Debug, Clone)]
pub struct Icons {
    /// Rows to fit on.
    pub train: IconRows,
    /// Rows to choose on, of other concepts.
    pub validation: IconRows,
    /// Rows to judge by, of other concepts again.
    pub test: IconRows,
    /// What the pictures of `test` are called: the icon set and the name in it.
    pub test_names: Vec<String>,
    /// The captions of `test`.
    pub test_texts: Vec<String>,
}

/// The rows of a split; concepts are whole.
#[derive(Debug, Clone)]
pub struct IconRows {
    /// A row a picture.
    pub pictures: HostMatrix,
    /// A row a caption.
    pub captions: HostMatrix,
    /// The concept of each picture, from 0.
    pub picture_concepts: Vec<i64>,
    /// The concept of each caption, likewise.
    pub caption_concepts: Vec<i64>,
}

impl IconRows {
    /// Every picture of a concept matches every caption of it.
    ///
    /// # Errors
    /// As [`Positives::from_groups`]; none for the bundled rows.
    pub fn positives(&self) -> Result<Positives> {
        Positives::from_groups(&self.picture_concepts, &self.caption_concepts)
    }

    /// Number of concepts.
    pub fn concepts(&self) -> usize {
        self.picture_concepts.iter().max().map_or(0, |&c| c as usize + 1)
    }

    fn parse(name: &str, archive: &[u8]) -> Result<Self> {
        let bad = |reason: String| Error::bad_file(name, reason);
        let mut zip = ZipArchive::new(Cursor::new(archive)).map_err(|e| bad(e.to_string()))?;
        let mut array = |array: &str| {
            let mut entry = zip.by_name(&format!("{array}.npy")).map_err(|e| bad(e.to_string()))?;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
            Ok::<_, Error>(bytes)
        };
        let matrix = |of: &str, file: &[u8]| {
            let name = format!("{name}, {of}");
            let view = parse_npy(&name, file)?;
            HostMatrix::from_f32(&name, view.rows(), view.cols(), read_all(&view)?)
        };
        Ok(Self {
            pictures: matrix("pictures", &array("x")?)?,
            captions: matrix("captions", &array("y")?)?,
            picture_concepts: parse_index_vector(name, &array("groups_x")?)?,
            caption_concepts: parse_index_vector(name, &array("groups_y")?)?,
        })
    }
}

/// The icons bundled with the crate.
///
/// # Errors
/// None in an intact build; those of parsing otherwise.
pub fn icons() -> Result<Icons> {
    let lines = |text: &str| text.lines().map(str::to_string).collect();
    Ok(Icons {
        train: IconRows::parse("icons to train on", include_bytes!("../../data/icons/train.npz"))?,
        validation: IconRows::parse("icons to validate on", include_bytes!("../../data/icons/val.npz"))?,
        test: IconRows::parse("icons to test on", include_bytes!("../../data/icons/test.npz"))?,
        test_names: lines(include_str!("../../data/icons/test_names.txt")),
        test_texts: lines(include_str!("../../data/icons/test_texts.txt")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::check_finite;

    #[test]
    fn icons_are_whole() {
        let icons = icons().unwrap();
        let sizes = |r: &IconRows| (r.pictures.rows(), r.captions.rows(), r.concepts());
        assert_eq!(sizes(&icons.train), (7884, 6946, 2445));
        assert_eq!(sizes(&icons.validation), (893, 794, 282));
        assert_eq!(sizes(&icons.test), (953, 852, 299));
        for rows in [&icons.train, &icons.validation, &icons.test] {
            let (x, y) = (check_finite(&rows.pictures).unwrap(), check_finite(&rows.captions).unwrap());
            assert_eq!((x.cols, y.cols, x.zero_rows, y.zero_rows), (384, 256, 0, 0));
            assert_eq!(
                (rows.picture_concepts.len(), rows.caption_concepts.len()),
                (rows.pictures.rows(), rows.captions.rows())
            );
            assert_eq!(rows.positives().unwrap().unmatched(), (0, 0));
        }
        let test = &icons.test;
        assert_eq!(
            (icons.test_names.len(), icons.test_texts.len()),
            (test.pictures.rows(), test.captions.rows())
        );
        // Names and rows belong together: a picture's name without its set is mostly a caption of its concept.
        let named = |(name, concept): (&String, &i64)| {
            let name = name.split_once(": ").unwrap().1;
            let mut captions = icons.test_texts.iter().zip(&test.caption_concepts);
            captions.any(|(text, c)| c == concept && text == name)
        };
        let found = icons.test_names.iter().zip(&test.picture_concepts).filter(|&pair| named(pair)).count();
        assert!(found > 700, "{found} of {}", icons.test_names.len());
    }
}
