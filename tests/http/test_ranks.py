"""A server whose model is shared by two ranks answers as one does, and tells of both."""
import concurrent.futures
import subprocess
import unittest

from harness import QUERN, ROOT, SANITIZED, TEXT_ALONE, Server, ServerTest

N_RANKS = 2
QUESTIONS = ["What is 17 + 25?", "What is the capital of France?", "Who are you?", "Repeat this emoji: 🦀"]


class Ranks(ServerTest):
    arguments = ("--tensor-parallel-size", str(N_RANKS), "--threads", "2", "--max-seqs", "8")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = Server("--threads", "2", "--max-seqs", "8")

    @classmethod
    def tearDownClass(cls):
        assert cls.one.stop() == 0
        super().tearDownClass()

    def ask_both(self, question, **fields):
        answers = [server.chat(question, max_tokens=8 if SANITIZED else 24, **fields) for server in (self.one, self.server)]
        for status, answer in answers:
            self.assertEqual(status, 200, answer)
        return [answer["choices"][0] for _, answer in answers]

    def test_answers_are_those_of_one_rank(self):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for one, two in pool.map(self.ask_both, QUESTIONS[:2] if SANITIZED else QUESTIONS):
                self.assertEqual(one, two)

    def test_what_the_first_rank_alone_does(self):
        """Seats, masks and scores are the first rank's, and the others go on with the tokens that they lead to."""
        cases = ({"frequency_penalty": 1.5}, {"response_format": {"type": "json_object"}},
                 {"logit_bias": {"17": 100}, "max_tokens": 4})
        for fields in cases[:1] if SANITIZED else cases:
            with self.subTest(fields):
                bodies = [server.chat("What is 17 + 25?", **{"max_tokens": 8 if SANITIZED else 16, **fields})
                          for server in (self.one, self.server)]
                self.assertEqual(*(answer["choices"] for _, answer in bodies))
        one, two = self.ask_both("What is 17 + 25?", logprobs=True, top_logprobs=3)
        for left, right in zip(one["logprobs"]["content"], two["logprobs"]["content"], strict=True):
            self.assertEqual(left["token"], right["token"])
            self.assertAlmostEqual(left["logprob"], right["logprob"], delta=0.05)

    @TEXT_ALONE
    def test_info_and_metrics_tell_of_each_rank(self):
        _, info = self.server.get("/server_info")
        _, alone = self.one.get("/server_info")
        self.assertEqual((len(info["ranks"]), len(alone["ranks"])), (N_RANKS, 1))
        self.assertEqual(alone["interconnect"], "none")
        self.assertEqual(info["interconnect"], "shared memory")
        for name in ("weights_bytes", "scratch_bytes", "kv_bytes"):
            self.assertEqual(info["memory"][name], sum(rank[name] for rank in info["ranks"]))
        self.assertEqual(info["memory"]["kv_bytes_per_token"], alone["memory"]["kv_bytes_per_token"])
        for rank in info["ranks"]:  # the embedding table is whole on each rank, the rest is halved
            self.assertLess(rank["weights_bytes"], 0.6 * alone["memory"]["weights_bytes"])
        metrics = self.server.metrics()
        self.assertEqual(metrics["quern:ranks"], N_RANKS)
        self.assertEqual(metrics['quern:interconnect_info{interconnect="shared memory"}'], 1)
        for number, rank in enumerate(info["ranks"]):
            self.assertEqual(metrics[f'quern:weights_bytes{{rank="{number}"}}'], rank["weights_bytes"])
            self.assertEqual(metrics[f'quern:kv_bytes{{rank="{number}"}}'], rank["kv_bytes"])

    @TEXT_ALONE
    def test_the_log_has_a_plan_of_each_rank(self):
        log = self.server.read_log()
        self.assertIn("ranks: 2 such devices, connected by shared memory", log)
        for number in range(N_RANKS):
            self.assertRegex(log, rf"memory of rank {number}: weights 0\.\d\d GiB, scratch .* sequences of 8192")
        self.assertLess(log.index("memory of rank 1"), log.index("weights: "))  # before anything is allocated


@TEXT_ALONE
class Refusals(unittest.TestCase):
    def test_what_the_model_cannot_be_shared_by(self):
        for value, message in (("3", "num_attention_heads of 4 cannot be shared evenly by so many ranks; "
                                     "allowed are 1, 2, 4"),
                               ("8", "num_attention_heads of 4"),
                               ("0", "tensor-parallel-size"), ("17", "tensor-parallel-size")):
            with self.subTest(value):
                ended = subprocess.run([QUERN, "serve", "--port", "0", "--device", "cpu",
                                        "--tensor-parallel-size", value], cwd=ROOT, timeout=60, capture_output=True,
                                       text=True)
                self.assertNotEqual(ended.returncode, 0)
                self.assertIn(message, ended.stderr)
