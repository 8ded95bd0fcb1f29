use logitkit::{Shape, logsumexp};
#[test]
fn lse() {
    let mut lse = [0.0; 2];
    logsumexp(&[0.0, -40.0, 1000.0, 1000.0], Shape::rows(2, 2), &mut lse).unwrap();
    println!("{lse:?}");
}
