"""The paged cache: what attends to it gives the bits of ifa.attention on the same tokens; forks,
ends, refusals."""

import gc
import unittest

import ifa
import numpy as np


def plain(k, v, q, **options):
    """The oracle on operands quantized as the cache does."""
    kk, vv = (ifa.quantize(x[None], scale="token") for x in (k, v))
    return ifa.attention(
        ifa.quantize(q[None]),
        kk,
        vv,
        causal=True,
        tau=2,
        kv_tile=64,
        backend="scalar",
        out_type="f32",
        **options,
    )[0]


class Cache(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(1)
        self.cache = ifa.Cache(2, 32, blocks=16, sequences=3)

    def tokens(self, count, heads=2):
        return self.random.standard_normal((heads, count, 32)).astype(np.float32)

    def test_prefill_and_decode_are_the_oracles_bits(self):
        a, b = self.cache.sequence(), self.cache.sequence()
        ka, va, kb, vb = (self.tokens(n) for n in (100, 100, 30, 30))
        a.append(ka[:, :64], va[:, :64])
        b.append(
            np.ascontiguousarray(kb.transpose(1, 0, 2)).transpose(1, 0, 2), vb
        )  # tokens before heads
        a.append(ka[:, 64:], va[:, 64:])
        self.assertEqual((len(a), len(b)), (100, 30))
        qa, qb = self.tokens(7, 4), self.tokens(1, 4)
        oa, ob = self.cache.attend([(a, qa), (b, qb)])
        self.assertEqual(oa.tobytes(), plain(ka, va, qa).tobytes())
        self.assertEqual(ob.tobytes(), plain(kb, vb, qb).tobytes())
        ((o, lse),) = self.cache.attend([(a, qa)], lse=True, out=[np.empty((4, 7, 32), np.float32)])
        self.assertEqual((o.tobytes(), lse.shape), (oa.tobytes(), (4, 7)))
        k, _, k_scale, _ = a.read()
        want = ifa.quantize(ka[None])
        self.assertEqual(
            (k.tobytes(), k_scale.tobytes()), (want.data.tobytes(), want.scale.tobytes())
        )

    def test_forks_share_and_part(self):
        a = self.cache.sequence()
        k, v = self.tokens(70), self.tokens(70)
        a.append(k, v)
        b = a.fork()
        self.assertEqual(self.cache.usage()["shared_blocks"], 2)
        more = self.tokens(1), self.tokens(1)
        b.append(*more)
        a.truncate(10)
        q = self.tokens(1, 2)
        (ob,) = self.cache.attend([(b, q)])
        self.assertEqual(
            ob.tobytes(),
            plain(np.concatenate([k, more[0]], 1), np.concatenate([v, more[1]], 1), q).tobytes(),
        )
        self.cache.check()
        b.remove()
        self.assertEqual(
            self.cache.usage(), {"free_blocks": 15, "free_sequences": 2, "shared_blocks": 0}
        )
        with self.assertRaisesRegex(ifa.BadArgument, "removed"):
            len(b)

    def test_a_sequence_ends_with_its_last_reference(self):
        s = self.cache.sequence()
        s.append(self.tokens(5), self.tokens(5))
        del s
        gc.collect()
        self.assertEqual(
            self.cache.usage(), {"free_blocks": 16, "free_sequences": 3, "shared_blocks": 0}
        )

    def test_refusals(self):
        s = self.cache.sequence()
        with self.assertRaisesRegex(ifa.Full, "2000 tokens"):
            s.append(self.tokens(2000), self.tokens(2000))
        self.assertEqual(len(s), 0)
        with self.assertRaisesRegex(ifa.BadArgument, r"k has shape \[3, 1, 32\]"):
            s.append(self.tokens(1, 3), self.tokens(1, 3))
        with self.assertRaisesRegex(ifa.BadData, "nan"):
            s.append(self.tokens(1) * np.nan, self.tokens(1))
        with self.assertRaisesRegex(ifa.BadArgument, "block_tokens is 65"):
            ifa.Cache(2, 32, blocks=1, block_tokens=65)
        with self.assertRaisesRegex(ifa.BadArgument, "k_type is 'int2'"):
            ifa.Cache(2, 32, blocks=1, k_type="int2")
        with self.assertRaisesRegex(ifa.BadArgument, "another cache"):
            self.cache.attend([(ifa.Cache(2, 32, blocks=1).sequence(), self.tokens(0))])
        others = [self.cache.sequence() for _ in range(2)]
        with self.assertRaises(ifa.Full):
            self.cache.sequence()
        self.cache.close()
        with self.assertRaisesRegex(ifa.BadArgument, "closed"):
            len(others[0])


if __name__ == "__main__":
    unittest.main()
