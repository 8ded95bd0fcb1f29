//! The operations as a user of the crate sees them: values, bits, semantics, errors. One program, for the kernels
//! are generic and every test program compiles them anew.

mod accuracy;
mod arguments;
mod bits;
mod common;
mod grad_hess;
mod search;
mod semantics;
mod values;
