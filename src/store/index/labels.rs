//! Names that people gave to moments.
//!
//! Labels are not part of any tree, so they have no past: a name that is taken back is gone. They are kept
//! here, and neither in a file of their own nor in each segment, because this is where what the log says is
//! already kept together with the place in the log up to which it was read: after a clean stop nothing is
//! read back, after a crash what came since, and without an index everything.
//!
//! Invariants: what the rows say is what the log's notes say, read from the start.

use super::super::event::Seq;
use super::small::Small;
use super::{IndexError, Tables, codec, key};

impl Tables {
    /// The event that `name` is a label of.
    pub fn label(&self, name: &[u8]) -> Result<Option<Seq>, IndexError> {
        if name.is_empty() || name.len() > key::NAME_MAX {
            return Ok(None);
        }
        let row = self.row(&key::label(name))?;
        row.map(|row| codec::Reader(&row).number().map(Seq)).transpose()
    }

    /// All labels, by name.
    pub fn labels(&self) -> Result<Vec<(Vec<u8>, Seq)>, IndexError> {
        let all = key::Key::new(key::LABEL);
        let mut rows = self.cursor(None, &all, &all.clone().end())?;
        let mut labels = Vec::new();
        while rows.next()? {
            let name = rows.key().get(1..).unwrap_or_default().to_vec();
            labels.push((name, Seq(codec::Reader(rows.value()).number()?)));
        }
        Ok(labels)
    }

    /// The oldest event that has a label. Asked again, it costs no look at the labels.
    pub fn first_labelled(&self) -> Result<Option<Seq>, IndexError> {
        let mut first = self.first_label.lock();
        if let Some(first) = *first {
            return Ok(first);
        }
        let found = self.labels()?.into_iter().map(|(_, seq)| seq).min();
        *first = Some(found);
        Ok(found)
    }

    /// Folds in that `name` is a label of `seq`, or of nothing any more.
    pub fn set_label(&mut self, name: &[u8], seq: Option<Seq>) -> Result<(), IndexError> {
        if name.is_empty() || name.len() > key::NAME_MAX {
            return Err(IndexError::Damaged("a label's name has no length it may have".into()));
        }
        *self.first_label.get_mut() = None;
        let row = Small::from(&*key::label(name));
        match seq {
            Some(seq) => {
                let mut value = codec::Writer(Vec::new());
                value.number(seq.0);
                self.young.put(row, Small::from(&value.0[..]), true);
            }
            None => self.young.remove(row),
        }
        Ok(())
    }
}
