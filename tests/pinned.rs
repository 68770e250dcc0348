use layerwise::{Matrix, Scalar, Write};
#[test]
fn scan() {
    let v = |i: usize| ((i * 7919 + 13) % 1000) as f64 / 331.0 - 1.5 + 1.0 / (i as f64 + 3.0);
    let mut bad = std::collections::BTreeMap::new();
    for transposed in [false, true] {
        for m in 1..=8usize {
            for k in 1..=70usize {
                let a: Vec<f64> = (0..m * k).map(v).collect();
                let b: Vec<f64> = (0..k * 40).map(|i| v(i + 5)).collect();
                let a = if transposed {
                    Matrix::new(&a, k, m).t()
                } else {
                    Matrix::new(&a, m, k)
                };
                let mut one = vec![];
                for j in 0..40 {
                    let mut o = (0..m).map(|i| v(i + 77)).collect::<Vec<f64>>();
                    f64::matmul(
                        Write::Add(&mut o),
                        a,
                        Matrix::new(&b[j * k..(j + 1) * k], k, 1),
                    );
                    one.extend(o);
                }
                for n in 2..=40 {
                    let mut o = (0..m * n).map(|i| v(i % m + 77)).collect::<Vec<f64>>();
                    f64::matmul(Write::Add(&mut o), a, Matrix::new(&b[..k * n], k, n));
                    if o != one[..m * n] {
                        bad.entry((transposed, m, k)).or_insert(vec![]).push(n);
                    }
                }
            }
        }
    }
    let mut add = 0;
    for (key, ns) in bad {
        println!("{key:?}: {ns:?}");
        add += 1;
        if add > 60 {
            break;
        }
    }
}
