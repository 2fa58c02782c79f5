//! The field of 256 elements: bytes, with the polynomial x^8 + x^4 + x^3 + x^2 + 1.

const POLYNOMIAL: u16 = 0x11d;

const fn tables() -> ([u8; 512], [u8; 256]) {
    let (mut exp, mut log) = ([0; 512], [0; 256]);
    let (mut x, mut i) = (1u16, 0);
    while i < 255 {
        exp[i] = x as u8;
        exp[i + 255] = x as u8;
        log[x as usize] = i as u8;
        x <<= 1;
        if x > 255 {
            x ^= POLYNOMIAL;
        }
        i += 1;
    }
    (exp, log)
}

static TABLES: ([u8; 512], [u8; 256]) = tables();

/// Two times x, without a table, so that loops over it become vector code.
#[inline(always)]
pub fn double(x: u8) -> u8 {
    (x << 1) ^ (((x as i8) >> 7) as u8 & (POLYNOMIAL & 0xff) as u8)
}

/// Two to the power of `n`.
pub fn power(n: usize) -> u8 {
    TABLES.0[n % 255]
}

/// The product.
pub fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    let (exp, log) = (&TABLES.0, &TABLES.1);
    exp[usize::from(log[usize::from(a)]) + usize::from(log[usize::from(b)])]
}

/// The quotient; 0 if `b` is 0.
pub fn div(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    let (exp, log) = (&TABLES.0, &TABLES.1);
    exp[255 + usize::from(log[usize::from(a)]) - usize::from(log[usize::from(b)])]
}

/// Solves `matrix · x = right` in place of `right`; false if there is no single solution.
pub fn solve<const N: usize>(n: usize, matrix: &mut [[u8; N]; N], right: &mut [u8; N]) -> bool {
    for col in 0..n {
        let Some(pivot) = (col..n).find(|r| matrix[*r][col] != 0) else { return false };
        matrix.swap(col, pivot);
        right.swap(col, pivot);
        let scale = matrix[col][col];
        for v in &mut matrix[col][..n] {
            *v = div(*v, scale);
        }
        right[col] = div(right[col], scale);
        let (row, value) = (matrix[col], right[col]);
        for r in (0..n).filter(|r| *r != col) {
            let factor = matrix[r][col];
            for (v, p) in matrix[r][..n].iter_mut().zip(&row) {
                *v ^= mul(factor, *p);
            }
            right[r] ^= mul(factor, value);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_field() {
        for a in 0..=255u8 {
            assert_eq!(double(a), mul(a, 2));
            for b in 1..=255u8 {
                assert_eq!(div(mul(a, b), b), a);
                assert_eq!(mul(a, b), mul(b, a));
            }
        }
        assert_eq!((power(0), power(1), power(8), power(255)), (1, 2, 0x1d, 1));
    }
}
