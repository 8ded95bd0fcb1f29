//! What a caller's data can do wrong.

use std::fmt;

/// An error in the arguments of an operation. Nothing has been written when one is returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A buffer does not have the number of elements that its shape needs.
    Length {
        /// The argument's name.
        name: &'static str,
        /// The elements that it has.
        got: usize,
        /// The elements that it needs.
        wanted: usize,
    },
    /// A label is neither a class number nor the ignored one.
    Label {
        /// The row, counted in C order over the batch shape.
        row: usize,
        /// The label, as it was given (an unsigned label may exceed `i64`).
        label: i128,
        /// The number of classes.
        classes: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Length { name, got, wanted } => {
                write!(f, "{name} has {got} elements: its shape needs {wanted}")
            }
            Error::Label { row, label, classes } => {
                write!(f, "the label of row {row} is {label}: not in [0, {classes})")
            }
        }
    }
}

impl std::error::Error for Error {}
