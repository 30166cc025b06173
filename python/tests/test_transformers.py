"""attn_implementation="ifa" on a tiny random model: near torch's attention, the same tokens with
every cache; the paged cache in beam search; refusals."""

import importlib.util
import unittest
import warnings

import ifa

HAVE = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
if HAVE:
    import ifa.transformers
    import torch
    import transformers


def model(implementation, kind="Llama", **options):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        attn_implementation=implementation,
        **options,
    )
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@unittest.skipUnless(HAVE, "not available: torch and transformers")
class Transformers(unittest.TestCase):
    def setUp(self):
        warnings.simplefilter("ignore", FutureWarning)
        self.ids = torch.randint(1, 300, (2, 90), generator=torch.Generator().manual_seed(1))

    def near(self, theirs, mine):
        with torch.no_grad():
            want, got = theirs(self.ids).logits, mine(self.ids).logits
        self.assertTrue(0 < ((got - want).norm() / want.norm()).item() < 0.02)

    def tokens(self, of, **options):
        return of.generate(
            self.ids, max_new_tokens=8, do_sample=False, pad_token_id=0, **options
        ).tolist()

    def test_near_torchs_attention(self):
        self.near(model("sdpa"), model("ifa"))
        self.near(
            model("sdpa", "Mistral", sliding_window=20), model("ifa", "Mistral", sliding_window=20)
        )

    def test_the_same_tokens_with_every_cache(self):
        mine = model("ifa")
        want = self.tokens(model("sdpa"))
        self.assertEqual(self.tokens(mine), want)
        cache = ifa.transformers.PagedCache(mine.config, blocks=8, sequences=2)
        self.assertEqual(self.tokens(mine, past_key_values=cache), want)
        self.assertEqual(cache.get_seq_length(), 97)
        self.assertEqual(
            cache.layers[1].cache.usage(),
            {"free_blocks": 4, "free_sequences": 0, "shared_blocks": 0},
        )
        sliding = model("ifa", "Mistral", sliding_window=20)
        self.assertEqual(
            self.tokens(sliding), self.tokens(model("sdpa", "Mistral", sliding_window=20))
        )

    def test_decoding_is_prefill(self):
        """The paged cache: a token's logits do not depend on how the tokens before it came in."""
        mine = model("ifa")

        def logits(*chunks):
            cache = ifa.transformers.PagedCache(mine.config, blocks=8)
            return torch.cat(
                [mine(chunk, past_key_values=cache, use_cache=True).logits for chunk in chunks], 1
            )

        with torch.no_grad():
            whole, parts = logits(self.ids), logits(
                self.ids[:, :70], *(self.ids[:, i : i + 1] for i in range(70, 90))
            )
        self.assertLess(
            (whole - parts).abs().max().item(), 1e-4
        )  # of the layers' other products: attention has the same bits

    def test_beams_are_forks(self):
        mine = model("ifa")
        cache = ifa.transformers.PagedCache(mine.config, blocks=64, sequences=12)
        self.assertEqual(
            self.tokens(mine, past_key_values=cache, num_beams=3),
            self.tokens(model("sdpa"), num_beams=3),
        )
        self.assertGreater(cache.layers[0].cache.usage()["shared_blocks"], 0)
        cache.layers[0].cache.check()
        cache.reset()
        self.assertEqual(cache.layers[0].cache.usage()["free_blocks"], 64)

    def test_refusals(self):
        mine = model("ifa")
        padded = torch.ones_like(self.ids)
        padded[:, :3] = 0
        with torch.no_grad(), self.assertRaisesRegex(ifa.Unsupported, "attn_mask"):
            mine(self.ids, attention_mask=padded)
        with self.assertRaisesRegex(ifa.Unsupported, "gradients"):
            mine(self.ids)
        with self.assertRaisesRegex(ifa.BadArgument, "attn_implementation is 'sdpa'"):
            ifa.transformers.PagedCache(model("sdpa").config, blocks=8)
        cache = ifa.transformers.PagedCache(mine.config, blocks=1)
        with torch.no_grad(), self.assertRaises(ifa.Full):
            mine(self.ids, past_key_values=cache, use_cache=True)


if __name__ == "__main__":
    unittest.main()
