//! What the arguments can do wrong: the error says it, and nothing has been written.

use logitkit::{Error, Label, Reduction, Shape};

/// A value that no operation computes.
const UNTOUCHED: f32 = f32::from_bits(0xffc1_2345);

fn untouched(out: &[f32]) -> bool {
    out.iter().all(|x| x.to_bits() == UNTOUCHED.to_bits())
}

/// The label `wrong` in row 3 of 5 is an error of every operation that takes labels.
#[track_caller]
fn check_label<L: Label + Default>(wrong: L, ignore: Option<i64>, label: i128) {
    let labels = [L::default(), L::default(), L::default(), wrong, wrong];
    let error = Error::Label { row: 3, label, classes: 4 };
    for shape in [Shape::rows(5, 4), Shape { outer: 1, len: 4, inner: 5 }] {
        let x = [0.0f32; 20];
        let mut grad = [UNTOUCHED; 20];
        let result =
            logitkit::cross_entropy_value_and_grad(&x, &labels, shape, ignore, Reduction::Mean, &mut grad);
        assert_eq!(result, Err(error.clone()));
        assert!(untouched(&grad));
        let mut rows = [UNTOUCHED; 5];
        let result = logitkit::cross_entropy_rows(&x, &labels, shape, ignore, &mut rows);
        assert_eq!(result, Err(error.clone()));
        assert!(untouched(&rows));
        let result = logitkit::cross_entropy(&x, &labels, shape, ignore, Reduction::Sum);
        assert_eq!(result, Err(error.clone()));
        let result = logitkit::classification_error(&x, &labels, shape, ignore, Reduction::Sum);
        assert_eq!(result, Err(error.clone()));
    }
}

#[test]
fn labels_of_every_type_are_checked() {
    check_label(4i8, None, 4);
    check_label(4i16, None, 4);
    check_label(4i32, None, 4);
    check_label(4i64, None, 4);
    check_label(4u8, None, 4);
    check_label(4u16, None, 4);
    check_label(4u32, None, 4);
    check_label(4u64, None, 4);
    check_label(-1i8, None, -1);
    check_label(-1i16, None, -1);
    check_label(-1i32, None, -1);
    check_label(-1i64, None, -1);
    check_label(i8::MIN, None, -128);
    check_label(i16::MIN, None, i16::MIN.into());
    check_label(i32::MIN, None, i32::MIN.into());
    check_label(i64::MIN, None, i64::MIN.into());
    check_label(i64::MAX, None, i64::MAX.into());
    check_label(u8::MAX, None, 255);
    check_label(u16::MAX, None, 65_535);
    check_label(u32::MAX, None, u32::MAX.into());
}

#[test]
fn labels_beyond_i64_are_named_as_they_are() {
    check_label(u64::MAX, None, u64::MAX.into());
    check_label(1u64 << 63, None, 1 << 63);
    // The same 64 bits as the ignored label, but another number.
    check_label(u64::MAX, Some(-1), u64::MAX.into());
    check_label(-100i64 as u64, Some(-100), i128::from(-100i64 as u64));
    check_label(1u64 << 63, Some(i64::MIN), 1 << 63);
}

#[test]
fn labels_are_not_ignored_by_their_low_bits() {
    check_label(-1i8, Some(255), -1);
    check_label(255u8, Some(-1), 255);
    check_label(156u8, Some(-100), 156);
    check_label(4i8, Some(260), 4);
    check_label(u32::MAX, Some(-1), u32::MAX.into());
}

#[test]
fn the_last_class_is_a_label_and_any_number_can_be_ignored() {
    fn check<L: Label>(labels: [L; 2], ignore: i64) {
        let x = [0.0, 0.0, 0.0, 9.0, 7.0, 7.0, 7.0, 7.0f64];
        let shape = Shape::rows(2, 4);
        let wrong = logitkit::classification_error(&x, &labels, shape, Some(ignore), Reduction::Sum);
        assert_eq!(wrong, Ok(0.0));
        let mut grad = [1.0; 8];
        let loss = logitkit::cross_entropy_value_and_grad(
            &x,
            &labels,
            shape,
            Some(ignore),
            Reduction::Mean,
            &mut grad,
        );
        let loss = loss.unwrap();
        assert!(loss > 3e-4 && loss < 4e-4, "{loss}");
        assert_eq!(grad[4..], [0.0; 4]);
    }
    check([3i8, -100], -100);
    check([3i16, -100], -100);
    check([3i32, i32::MIN], i32::MIN.into());
    check([3i64, i64::MIN], i64::MIN);
    check([3u8, 255], 255);
    check([3u16, 65_535], 65_535);
    check([3u32, u32::MAX], u32::MAX.into());
    check([3u64, i64::MAX as u64], i64::MAX);
    // A class can be the ignored one.
    check([3u8, 0], 0);
}

/// The first wrong label is the one that is named, wherever it is.
#[test]
fn the_first_wrong_label_is_named() {
    let shape = Shape { outer: 100, len: 3, inner: 7 };
    let x = vec![0.0f32; shape.size()];
    for row in [0, 1, 6, 7, 350, 698, 699] {
        let mut labels = vec![2i16; 700];
        labels[row] = -7;
        labels[699] = 3;
        let label = if row == 699 { 3 } else { -7 };
        let result = logitkit::cross_entropy(&x, &labels, shape, Some(-1), Reduction::Mean);
        assert_eq!(result, Err(Error::Label { row, label, classes: 3 }));
    }
}

#[test]
fn errors_say_what_was_given() {
    let error = Error::Label { row: 3, label: u64::MAX.into(), classes: 4 };
    assert_eq!(error.to_string(), "the label of row 3 is 18446744073709551615: not in [0, 4)");
    let error = Error::Length { name: "grad", got: 5, wanted: 6 };
    assert_eq!(error.to_string(), "grad has 5 elements: its shape needs 6");
}

/// Every buffer of every operation, one element too short and one too long.
#[test]
fn buffers_of_the_wrong_length() {
    const SIZE: usize = 6;
    const ROWS: usize = 2;
    let shape = Shape::rows(ROWS, 3);
    let x = [0.0f32; 8];
    let labels = [0i64; 8];

    /// Runs `operation` with the lengths `right`, then with each of them wrong.
    fn check<const N: usize>(
        right: [(&'static str, usize); N],
        operation: impl Fn([usize; N], &mut [f32]) -> Result<(), Error>,
    ) {
        let lengths = right.map(|(_, n)| n);
        let mut out = [UNTOUCHED; 8];
        assert_eq!(operation(lengths, &mut out), Ok(()));
        for (i, &(name, wanted)) in right.iter().enumerate() {
            for got in [wanted - 1, wanted + 1] {
                let mut lengths = lengths;
                lengths[i] = got;
                let mut out = [UNTOUCHED; 8];
                assert_eq!(operation(lengths, &mut out), Err(Error::Length { name, got, wanted }));
                assert!(untouched(&out), "{name} of {got} elements");
            }
        }
    }
    let (mean, element) = (Reduction::Mean, ("x", SIZE));
    check([element, ("out", SIZE)], |[a, b], out| logitkit::softmax(&x[..a], shape, &mut out[..b]));
    check([element], |[a], out| logitkit::softmax_in_place(&mut out[..a], shape));
    check([element, ("out", SIZE)], |[a, b], out| logitkit::log_softmax(&x[..a], shape, &mut out[..b]));
    check([element], |[a], out| logitkit::log_softmax_in_place(&mut out[..a], shape));
    check([element, ("out", ROWS)], |[a, b], out| logitkit::logsumexp(&x[..a], shape, &mut out[..b]));
    check([("grad", SIZE), ("y", SIZE), ("out", SIZE)], |[a, b, c], out| {
        logitkit::softmax_backward(&x[..a], &x[..b], shape, &mut out[..c])
    });
    check([("grad", SIZE), ("y", SIZE), ("out", SIZE)], |[a, b, c], out| {
        logitkit::log_softmax_backward(&x[..a], &x[..b], shape, &mut out[..c])
    });
    check([("grad", ROWS), element, ("lse", ROWS), ("out", SIZE)], |[a, b, c, d], out| {
        logitkit::logsumexp_backward(&x[..a], &x[..b], &x[..c], shape, &mut out[..d])
    });
    let (logits, classes) = (("logits", SIZE), ("classes", ROWS));
    check([logits, classes], |[a, b], _| {
        logitkit::cross_entropy(&x[..a], &labels[..b], shape, None, mean).map(drop)
    });
    check([logits, classes, ("out", ROWS)], |[a, b, c], out| {
        logitkit::cross_entropy_rows(&x[..a], &labels[..b], shape, None, &mut out[..c])
    });
    check([logits, classes, ("grad", SIZE)], |[a, b, c], out| {
        let (x, labels, grad) = (&x[..a], &labels[..b], &mut out[..c]);
        logitkit::cross_entropy_value_and_grad(x, labels, shape, None, mean, grad).map(drop)
    });
    check([logits, ("probabilities", SIZE)], |[a, b], _| {
        logitkit::soft_cross_entropy(&x[..a], &x[..b], shape, mean).map(drop)
    });
    check([logits, ("probabilities", SIZE), ("grad", SIZE)], |[a, b, c], out| {
        let (x, t, grad) = (&x[..a], &x[..b], &mut out[..c]);
        logitkit::soft_cross_entropy_value_and_grad(x, t, shape, mean, grad).map(drop)
    });
    check([("target", SIZE)], |[a], _| logitkit::mse_loss(&x[..SIZE], &x[..a], mean).map(drop));
    check([("target", SIZE), ("grad", SIZE)], |[a, b], out| {
        logitkit::mse_loss_value_and_grad(&x[..SIZE], &x[..a], mean, &mut out[..b]).map(drop)
    });
    check([("scores", SIZE), classes], |[a, b], _| {
        logitkit::classification_error(&x[..a], &labels[..b], shape, None, mean).map(drop)
    });
}

#[test]
fn lengths_of_evaluation() {
    let (x, labels, shape) = ([0.0f32; 6], [0u8; 2], Shape::rows(2, 3));
    let (mut rows, mut flags) = ([UNTOUCHED; 2], [true; 2]);
    let mut check = |a: usize, b: usize, c: usize, d: usize, name, wanted| {
        let (rows, flags) = (&mut rows[..c], &mut flags[..d]);
        let result = logitkit::token_logprobs(&x[..a], &labels[..b], shape, None, rows, flags);
        let got = [a, b, c, d].into_iter().find(|&n| n == wanted - 1).unwrap();
        assert_eq!(result, Err(Error::Length { name, got, wanted }));
    };
    check(5, 2, 2, 2, "logits", 6);
    check(6, 1, 2, 2, "classes", 2);
    check(6, 2, 1, 2, "logprobs", 2);
    check(6, 2, 2, 1, "is_argmax", 2);
    let wrong = logitkit::token_logprobs(&x, &[0u8, 3], shape, None, &mut rows, &mut flags);
    assert_eq!(wrong, Err(Error::Label { row: 1, label: 3, classes: 3 }));
    assert!(untouched(&rows) && flags == [true; 2]);

    let (mut values, mut indices) = ([UNTOUCHED; 4], [7; 4]);
    let mut check = |a: usize, b: usize, c: usize, name, got, wanted| {
        let (values, indices) = (&mut values[..b], &mut indices[..c]);
        let result = logitkit::top_k_logprobs(&x[..a], 2, shape, values, indices);
        assert_eq!(result, Err(Error::Length { name, got, wanted }));
    };
    check(5, 4, 4, "logits", 5, 6);
    check(6, 3, 4, "values", 3, 4);
    check(6, 4, 3, "indices", 3, 4);
    assert!(untouched(&values) && indices == [7; 4]);
}

#[test]
#[should_panic(expected = "k = 4 of 3 classes")]
fn no_more_than_all_classes() {
    let _ = logitkit::top_k_logprobs(&[0.0f32; 3], 4, Shape::rows(1, 3), &mut [0.0; 4], &mut [0; 4]);
}

#[test]
#[should_panic(expected = "k = 0 of 3 classes")]
fn one_class_at_least() {
    let _ = logitkit::top_k_logprobs(&[0.0f32; 3], 0, Shape::rows(1, 3), &mut [], &mut []);
}

/// A shape whose size does not fit `usize` is never taken for an empty one.
#[test]
fn shapes_that_overflow() {
    const HALF: usize = 1 << (usize::BITS - 1);
    for shape in [
        Shape::rows(HALF, 2),
        Shape { outer: 2, len: 1, inner: HALF },
        Shape { outer: HALF, len: 3, inner: 2 },
    ] {
        let operations: [fn(Shape) -> Result<(), Error>; 4] = [
            |shape| logitkit::softmax::<f32>(&[], shape, &mut []),
            |shape| logitkit::log_softmax_in_place::<f64>(&mut [], shape),
            |shape| logitkit::logsumexp::<f32>(&[], shape, &mut []),
            |shape| logitkit::softmax_backward::<f32>(&[], &[], shape, &mut []),
        ];
        for operation in operations {
            // A panic will do.
            let result = std::panic::catch_unwind(|| operation(shape));
            assert!(!matches!(result, Ok(Ok(()))), "{shape:?}");
        }
    }
}

/// A length error comes before a label error, and both before anything is read.
#[test]
fn lengths_are_checked_before_labels() {
    let mut grad = [UNTOUCHED; 5];
    let (x, shape) = ([0.0f32; 6], Shape::rows(2, 3));
    let result =
        logitkit::cross_entropy_value_and_grad(&x, &[9u8, 9], shape, None, Reduction::Mean, &mut grad);
    assert_eq!(result, Err(Error::Length { name: "grad", got: 5, wanted: 6 }));
    assert!(untouched(&grad));
}

#[test]
#[should_panic(expected = "axis 2 of 2 dimensions")]
fn an_axis_must_exist() {
    let _ = Shape::axis(&[2, 3], 2);
}

#[test]
fn shapes_of_axes() {
    assert_eq!(Shape::axis(&[2, 3, 5, 7], 0), Shape { outer: 1, len: 2, inner: 105 });
    assert_eq!(Shape::axis(&[2, 3, 5, 7], 2), Shape { outer: 6, len: 5, inner: 7 });
    assert_eq!(Shape::axis(&[4], 0), Shape::rows(1, 4));
    let shape = Shape::axis(&[2, 3, 5], 1);
    assert_eq!((shape.batch(), shape.size()), (10, 30));
}
