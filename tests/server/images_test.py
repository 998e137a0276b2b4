"""Pictures over REST and gRPC, by clients that nobody here wrote, beside a model of text."""

import base64
import json
import subprocess
import tempfile
import time
import unittest

import grpc
import openai

from pictures import gradient, hole, make_painter, png, png_pixels, png_size
from reflection import ByReflection
from serving import BINARY, ROOT, Server

GENERATE = "/v1/images/generations"
EDIT = "/v1/images/edits"
CAPTION = "/v1/images/captions"


def b64(file):
    return base64.b64encode(file).decode()


class ImageTest(unittest.TestCase):
    """Tests that share a server of a model of text, a small painter and a slow one."""

    FLAGS = ()

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.painter = make_painter(cls.folder.name)
        slow = make_painter(cls.folder.name, "slow", grid=32, roles=["paint", "magnify"])
        cls.server = Server("--model", cls.painter, "--model", slow, *cls.FLAGS)

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        assert code == 0, f"the server ended with {code}: {cls.server.errors()}"
        cls.folder.cleanup()

    def client(self):
        return openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key="none",
                             max_retries=0)

    def pictures(self, **fields):
        """The decoded pictures of a request over REST."""
        status, answer = self.server.post(GENERATE, {"model": "painter", "prompt": "一只猫", **fields})
        self.assertEqual(status, 200, answer)
        return [base64.b64decode(entry["b64_json"]) for entry in answer["data"]]

    def events(self, path, body):
        """(name, value) of each event; the last must be [DONE]."""
        status, headers, answer = self.server.ask("POST", path, {**body, "stream": True})
        self.assertEqual((status, headers["Content-Type"]), (200, "text/event-stream"), answer)
        parts = [part for part in answer.decode().split("\n\n") if part]
        self.assertEqual(parts.pop(), "data: [DONE]")
        events = []
        for part in parts:
            name, data = part.split("\n")
            value = json.loads(data.removeprefix("data: "))
            self.assertEqual(name, f"event: {value['type']}")
            events.append(value)
        return events


class OpenAi(ImageTest):

    def test_models_say_what_they_do_with_pictures(self):
        models = {model.id: model for model in self.client().models.list()}
        self.assertEqual(list(models), ["poet", "painter", "slow"])
        self.assertFalse(hasattr(models["poet"], "pictures"))
        pictures = models["painter"].pictures
        self.assertEqual(pictures["sizes"], ["32x32"])
        self.assertEqual(pictures["styles"], ["国画", "轮廓画"])
        self.assertEqual((pictures["paints"], pictures["captions"]), (True, True))
        self.assertEqual(models["slow"].pictures["sizes"], ["256x256", "512x512"])

    def test_generate(self):
        ask = {"model": "painter", "prompt": "一只猫", "n": 3, "size": "32x32",
               "extra_body": {"seed": 7}}
        answer = self.client().images.generate(**ask)
        files = [base64.b64decode(one.b64_json) for one in answer.data]
        self.assertEqual([png_size(file) for file in files], [(32, 32)] * 3)
        self.assertEqual(len(set(files)), 3)
        self.assertEqual((answer.size, answer.output_format), ("32x32", "png"))
        self.assertEqual(answer.usage.output_tokens, 3 * 16)
        again = self.client().images.generate(**ask)
        self.assertEqual([one.b64_json for one in again.data], [one.b64_json for one in answer.data])
        # Each picture says with which seed it is painted alone.
        self.assertEqual([one.seed for one in answer.data], [7, 8, 9])
        self.assertEqual(self.pictures(seed=8), files[1:2])

    def test_the_same_picture_as_from_the_command_line(self):
        path = f"{self.folder.name}/cat.png"
        subprocess.run([BINARY, "paint", "--model", self.painter, "--text", "一只猫", "--style", "国画",
                        "--seed", "3", "--output", path, "--quiet"], check=True, capture_output=True)
        with open(path, "rb") as file:
            self.assertEqual(self.pictures(style="国画", seed=3), [file.read()])
        self.assertNotEqual(self.pictures(style="国画", seed=3), self.pictures(seed=3))

    def test_formats(self):
        for output_format, magic in (("png", b"\x89PNG"), ("jpeg", b"\xff\xd8"), ("webp", b"RIFF")):
            answer = self.client().images.generate(model="painter", prompt="猫",
                                                   output_format=output_format)
            self.assertTrue(base64.b64decode(answer.data[0].b64_json).startswith(magic))
            self.assertEqual(answer.output_format, output_format)
        low, high = [self.pictures(output_format="jpeg", output_compression=quality, seed=1)[0]
                     for quality in (5, 100)]
        self.assertLess(len(low), len(high))

    def test_magnify(self):
        ask = {"model": "slow", "seed": 6}
        small, large = self.pictures(**ask), self.pictures(size="512x512", **ask)
        self.assertEqual((png_size(small[0]), png_size(large[0])), ((256, 256), (512, 512)))
        self.assertEqual(self.pictures(size="256x256", **ask), small)
        self.assertEqual(self.pictures(size="512x512", **ask), large)

    def test_candidates_are_ranked(self):
        body = {"model": "painter", "prompt": "一只猫", "seed": 5, "return_scores": True}
        _, all_of_them = self.server.post(GENERATE, {**body, "n": 6})
        scores = [one["score"] for one in all_of_them["data"]]
        self.assertEqual(scores, sorted(scores, reverse=True))
        _, best = self.server.post(GENERATE, {**body, "n": 2, "candidates": 6})
        self.assertEqual(best["data"], all_of_them["data"][:2])
        _, silent = self.server.post(GENERATE, {**body, "candidates": 6, "return_scores": False})
        self.assertNotIn("score", silent["data"][0])
        self.assertEqual(silent["data"][0]["b64_json"], best["data"][0]["b64_json"])

    def test_stream(self):
        seen = list(self.client().images.generate(
            model="painter", prompt="一只猫", stream=True, partial_images=3, extra_body={"seed": 7}))
        self.assertEqual([event.type for event in seen],
                         ["image_generation.partial_image"] * 3 + ["image_generation.completed"])
        self.assertEqual([event.partial_image_index for event in seen[:3]], [0, 1, 2])
        files = [base64.b64decode(event.b64_json) for event in seen]
        self.assertEqual([png_size(file) for file in files], [(32, 32)] * 4)
        self.assertEqual(len(set(files)), 4)
        self.assertEqual(files[-1], self.pictures(seed=7)[0])
        self.assertEqual(seen[-1].usage.output_tokens, 16)

    def test_streams_of_several_and_of_any_number_of_partial_pictures(self):
        for wanted, come in ((0, 0), (1, 1), (2, 2), (32, 3)):
            events = self.events(GENERATE, {"model": "painter", "prompt": "猫", "n": 2,
                                            "partial_images": wanted})
            partial = [event for event in events if event["type"].endswith("partial_image")]
            self.assertEqual([sum(event["picture"] == i for event in partial) for i in (0, 1)],
                             [come] * 2)
            done = [event for event in events if event["type"].endswith("completed")]
            self.assertEqual([event["picture"] for event in done], [0, 1])

    def test_edit(self):
        # All is transparent: painted as if there had been no picture.
        ask = {"model": "painter", "prompt": "一只猫", "extra_body": {"seed": 3}}
        image = ("image.png", gradient(32), "image/png")
        whole = self.client().images.edit(image=image, mask=("m.png", hole(32)), **ask)
        self.assertEqual(base64.b64decode(whole.data[0].b64_json), self.pictures(seed=3)[0])
        half = self.client().images.edit(image=image, mask=("m.png", hole(32, right=16)), **ask)
        self.assertNotEqual(half.data[0].b64_json, whole.data[0].b64_json)
        self.assertEqual((half.usage.output_tokens, half.usage.input_tokens_details.image_tokens), (8, 8))
        # The picture's own transparency, a list of one, and JSON are the same.
        own = png(32, 32, lambda x, y: (x * 8, y * 8, 90, 0 if x < 16 else 255))
        opaque = png(32, 32, lambda x, y: (x * 8, y * 8, 90))
        listed = self.client().images.edit(image=[("image.png", own)], **ask)
        body = {"model": "painter", "prompt": "一只猫", "seed": 3, "image": b64(opaque),
                "mask": "data:image/png;base64," + b64(hole(32, right=16))}
        status, answer = self.server.post(EDIT, body)
        self.assertEqual(status, 200, answer)
        self.assertEqual(answer["usage"]["output_tokens"], listed.usage.output_tokens)
        seen = list(self.client().images.edit(image=image, mask=("m.png", hole(32, right=16)),
                                              stream=True, partial_images=2, **ask))
        self.assertEqual(seen[-1].type, "image_edit.completed")
        self.assertEqual(seen[-1].b64_json, half.data[0].b64_json)
        self.assertEqual({event.type for event in seen[:-1]}, {"image_edit.partial_image"})

    def test_captions(self):
        file = self.pictures(seed=2)[0]
        status, answer = self.server.post(CAPTION, {"model": "painter", "image": b64(file)})
        self.assertEqual(status, 200, answer)
        self.assertTrue(answer["data"][0]["text"])
        self.assertLess(answer["data"][0]["log_probability"], 0)
        self.assertEqual(answer["usage"]["input_tokens_details"]["image_tokens"], 16)
        path = f"{self.folder.name}/one.png"
        with open(path, "wb") as out:
            out.write(file)
        printed = subprocess.run([BINARY, "caption", "--model", self.painter, path], check=True,
                                 capture_output=True, text=True).stdout
        self.assertEqual(printed, answer["data"][0]["text"] + "\n")
        # The only model here that describes pictures need not be named.
        self.assertEqual(self.server.post(CAPTION, {"image": b64(file)})[1]["data"], answer["data"])

    def test_text_needs_no_model_name_beside_pictures(self):
        status, answer = self.server.post("/v1/tasks/poem", {"form": "五绝", "seed": 1})
        self.assertEqual((status, answer["model"]), (200, "poet"))

    def test_errors_are_the_packages_own(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client().images.generate(model="painter", prompt="猫", n=-1)
        self.assertEqual(caught.exception.param, "n")
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client().images.generate(model="dall-e-3", prompt="猫")
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_metrics(self):
        before = {name: self.server.metric(name) for name in (
            "qianyi_images_total", "qianyi_image_codes_total", "qianyi_image_seconds_count",
            "qianyi_image_first_row_seconds_count", "qianyi_image_steps_total")}
        self.pictures(n=2, candidates=3)
        after = {name: self.server.metric(name) - value for name, value in before.items()}
        self.assertEqual(after["qianyi_images_total"], 2)
        self.assertEqual(after["qianyi_image_codes_total"], 48)
        self.assertEqual(after["qianyi_image_seconds_count"], 1)
        self.assertEqual(after["qianyi_image_first_row_seconds_count"], 1)
        self.assertGreaterEqual(after["qianyi_image_steps_total"], 16)
        self.assertEqual(self.server.metric("qianyi_image_requests"), 0)


class Shipped(unittest.TestCase):
    """The painter that comes with the project, as it is started by scripts/serve."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--model", str(ROOT / "models/painter"))

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.errors()

    def paint(self, prompt, **fields):
        status, answer = self.server.post(GENERATE, {"prompt": prompt, "candidates": 8, "seed": 1, **fields})
        self.assertEqual((status, answer.get("size")), (200, "64x64"), answer)
        return answer["data"][0]["b64_json"]

    def test_it_paints_what_it_is_asked_for(self):
        for prompt, channel in (("一个红苹果", 0), ("绿心", 1), ("蓝心", 2)):
            pixels = png_pixels(base64.b64decode(self.paint(prompt)))
            inside = [pixels[i:i + 3] for i in range(0, len(pixels), 3) if min(pixels[i:i + 3]) < 200]
            self.assertGreater(len(inside), 64**2 / 4, prompt)
            mean = [sum(pixel[c] for pixel in inside) / len(inside) for c in range(3)]
            self.assertEqual(mean.index(max(mean)), channel, (prompt, mean))

    def test_styles_look_like_themselves(self):
        ink = png_pixels(base64.b64decode(self.paint("一只猫", style="轮廓画")))
        white = sum(min(ink[i:i + 3]) > 200 for i in range(0, len(ink), 3)) / 64**2
        dark = sum(max(ink[i:i + 3]) < 130 for i in range(0, len(ink), 3)) / 64**2
        self.assertGreater(white, 0.5)
        self.assertGreater(dark, 0.02)
        # The seal of 国画 is where it belongs: red, at the lower right.
        rice = png_pixels(base64.b64decode(self.paint("一只猫", style="国画")))
        red, green, blue = rice[(57 * 64 + 57) * 3:][:3]
        self.assertGreater(red, max(green, blue) + 60)


class Refusals(ImageTest):

    FLAGS = ("--batch", "8")

    def refused(self, path, body, param, *words, status=400, headers=None):
        got, _, answer = self.server.ask("POST", path, body, headers)
        self.assertEqual(got, status, answer)
        error = json.loads(answer)["error"]
        self.assertEqual(error["param"], param, error)
        for word in words:
            self.assertIn(word, error["message"])
        self.assertEqual(len(self.pictures()), 1)
        return error

    def test_fields(self):
        ask = {"model": "painter", "prompt": "一只猫"}
        for name, value, words in (
                ("size", 0, ["size is 0", "32x32"]), ("size", 10**5, ["100000", "32x32"]),
                ("size", "100000x100000", ["100000x100000", "32x32"]), ("size", "0x0", ["0x0"]),
                ("size", "1024x1024", ["1024x1024", "32x32"]), ("size", {}, ["size"]),
                ("size", "x" * 10**5, ["32x32"]),
                ("n", -1, ["n is -1", "1..128"]), ("n", 0, ["n is 0"]), ("n", 9, ["n is 9", "1..8"]),
                ("n", "many", ["n"]), ("n", 10**30, ["n"]), ("candidates", 0, ["candidates is 0"]),
                ("candidates", 9, ["candidates is 9", "1..8"]), ("candidates", 10**9, ["1..128"]),
                ("style", "水彩", ["水彩", "国画"]), ("style", 7, ["style"]),
                ("prompt", "", ["empty"]), ("prompt", " \n", ["empty"]), ("prompt", 5, ["string"]),
                ("prompt", None, ["empty"]), ("prompt", "猫" * 3000, ["1069", "shorten"]),
                ("seed", -1, ["seed is -1"]), ("temperature", 3, ["temperature is 3"]),
                ("top_k", -1, ["top_k"]), ("partial_images", 65, ["0..64"]),
                ("partial_images", -1, ["0..64"]), ("output_format", "bmp", ["png, jpeg or webp"]),
                ("output_compression", 101, ["0..100"]), ("response_format", "url", ["b64_json"]),
                ("background", "transparent", ["opaque"]), ("stream", "yes", ["true or false"]),
                ("return_scores", 1, ["true or false"]), ("unheard_of", 1, ["remove"]),
                ("max_tokens", 5, ["remove"]), ("image", b64(gradient(8)), ["/v1/images/edits"])):
            error = self.refused(GENERATE, {**ask, name: value}, name, *words)
            self.assertLess(len(error["message"]), 400)
        error = self.refused(GENERATE, {**ask, "prompt": "猫" * 3000}, "prompt")
        self.assertEqual(error["code"], "context_length_exceeded")
        self.refused(GENERATE, {**ask, "candidates": 2, "n": 3}, "candidates", "3..8")
        self.refused(GENERATE, {**ask, "n": 4, "partial_images": 17, "stream": True}, "partial_images",
                     "0..16")

    def test_models(self):
        self.refused(GENERATE, {"prompt": "猫", "model": "poet"}, "model", "poet", "painter")
        self.refused(GENERATE, {"prompt": "猫", "model": "other"}, "model", "painter", status=404)
        self.refused(GENERATE, {"prompt": "猫"}, "model", "painter, slow")
        self.refused("/v1/completions", {"prompt": "猫", "model": "painter"}, "model", "pictures")

    def test_pictures(self):
        ask = {"model": "painter", "prompt": "一只猫", "image": b64(gradient(32))}
        opaque, large = b64(gradient(32)), b64(png(4200, 2, lambda x, y: (0, 0, 0, 0)))
        self.refused(EDIT, {**ask, "mask": b64(hole(16))}, "mask", "16x16", "32x32")
        self.refused(EDIT, {**ask, "mask": b64(hole(32, 16))}, "mask", "32x16", "32x32")
        self.refused(EDIT, {**ask, "mask": opaque}, "mask", "transparency")
        self.refused(EDIT, {**ask, "mask": b64(hole(32, right=0))}, "mask", "nothing to paint")
        self.refused(EDIT, ask, "mask", "missing")
        self.refused(EDIT, {**ask, "image": None}, "image", "missing")
        self.refused(EDIT, {**ask, "image": "%%%"}, "image", "base64")
        self.refused(EDIT, {**ask, "image": b64(b"no picture")}, "image", "PNG")
        self.refused(EDIT, {**ask, "image": b64(gradient(32)[:100])}, "image", "damaged")
        self.refused(EDIT, {**ask, "image": large}, "image", "4200x2", "4096")
        self.refused(CAPTION, {"model": "painter"}, "image", "missing")
        self.refused(CAPTION, {**ask, "model": "painter"}, "prompt", "captions")
        self.refused(CAPTION, {"image": opaque, "n": 2}, "n", "captions")
        self.refused(CAPTION, {"image": "data:,x"}, "image", "base64")

    def test_forms(self):
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        part = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + "猫".encode() + b"\r\n"
        for body in (b"", b"--b", b"--b\r\n", b"--c--", part, part + b"--b", part + b"--b\r\n",
                     b"--b\r\n\r\n\r\n--b--", b"--b\r\nA: b\r\n\r\nx\r\n--b--", b"\r\n--b\r\nx",
                     b"--b\r\n" + b"A: " + b"x" * 10000 + b"\r\n\r\nx\r\n--b--", part * 100 + b"--b--"):
            self.refused(EDIT, body, None, "multipart/form-data", headers=form)
        self.refused(EDIT, part + b"--b--", None, "boundary",
                     headers={"Content-Type": "multipart/form-data"})
        self.refused(EDIT, part + b"--b--", "model", "painter", headers=form)
        both = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\nx\r\n' * 2
        self.refused(EDIT, both + b"--b--", "image", "twice", headers=form)
        for body in (b"{", b"[]", b"\xff", b'"x"', b'{"a":' * 5000):
            self.refused(GENERATE, body, None, "JSON")
        self.refused(EDIT, b"x" * (3 << 20), None, "larger", status=413, headers=form)

    def test_a_full_queue_is_said_to_be_full(self):
        with Server("--model", self.painter, "--batch", "1", "--queue", "1") as server:
            connections, statuses = [], set()
            body = json.dumps({"prompt": "猫"})
            for _ in range(24):
                connection = server.connect()
                connection.request("POST", GENERATE, body, {"Content-Type": "application/json"})
                connections.append(connection)
            for connection in connections:
                response = connection.getresponse()
                statuses.add(response.status)
                connection.close()
            self.assertIn(200, statuses)
            self.assertLessEqual(statuses, {200, 503})


class Leavers(ImageTest):
    """Clients that go away: the work stops, and all that it took comes back."""

    SLOW = {"model": "slow", "prompt": "一只猫", "n": 4}

    def wait_until_idle(self):
        self.server.wait_until_idle()
        end = time.monotonic() + 30
        while self.server.metric("qianyi_image_requests") > 0:
            self.assertLess(time.monotonic(), end, "requests are still running")
            time.sleep(0.02)

    def leave(self, path, body, until):
        connection = self.server.socket()
        data = json.dumps(body).encode()
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        until(connection)
        connection.close()

    def test_mid_way(self):
        before = self.server.metric("qianyi_generated_tokens_total")
        self.leave(GENERATE, {**self.SLOW, "stream": True, "partial_images": 8, "n": 8},
                   lambda connection: connection.recv(1000))
        self.wait_until_idle()
        self.assertLess(self.server.metric("qianyi_generated_tokens_total") - before, 8 * 1024)
        self.assertEqual(len(self.pictures()), 1)

    def test_while_it_waits(self):
        def wait_for_all(_):
            while self.server.metric("qianyi_image_requests") == 0:
                time.sleep(0.005)
        before = self.server.metric("qianyi_generated_tokens_total")
        for _ in range(40):
            self.leave(GENERATE, {**self.SLOW, "n": 16}, wait_for_all)
        self.wait_until_idle()
        self.assertLess(self.server.metric("qianyi_generated_tokens_total") - before, 40 * 16 * 1024)
        self.assertEqual(len(self.pictures()), 1)

    def test_memory_comes_back(self):
        image = b64(gradient(500))
        mask = b64(hole(500))

        def round_of(count):
            for i in range(count):
                edit = {**self.SLOW, "image": image, "mask": mask}
                self.leave(*((EDIT, edit) if i % 2 else (GENERATE, self.SLOW)),
                           lambda _: time.sleep(0.01))
            self.wait_until_idle()
            return self.server.resident_bytes()

        round_of(20)
        first = round_of(20)
        last = first
        for _ in range(3):
            last = round_of(20)
        self.assertLess(last - first, 24 << 20, "resident memory grows with every leaver")
        self.assertEqual(len(self.pictures()), 1)

    def test_a_server_that_is_told_to_end_finishes_pictures(self):
        server = Server("--model", self.painter)
        body = json.dumps({"prompt": "猫", "n": 2}).encode()
        with server.socket() as connection:
            connection.sendall(f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
                               "\r\nConnection: close\r\n\r\n".encode() + body)
            while server.metric("qianyi_image_seconds_count") + server.metric("qianyi_image_requests") == 0:
                time.sleep(0.001)
            self.assertEqual(server.stop(), 0)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        self.assertTrue(answer.startswith(b"HTTP/1.1 200"), answer[:200])


class Grpc(ByReflection, ImageTest):

    def ask(self, **fields):
        return self.message("qianyi.v1.GenerateImageRequest",
                            **{"model": "painter", "prompt": "一只猫", **fields})

    def test_models(self):
        models = self.call("ListModels", self.message("qianyi.v1.ListModelsRequest")).models
        self.assertEqual([model.HasField("pictures") for model in models], [False, True, True])
        self.assertEqual(list(models[1].pictures.styles), ["国画", "轮廓画"])
        self.assertEqual(list(models[1].pictures.sizes), ["32x32"])

    def test_generate(self):
        chunks = list(self.call("GenerateImage", self.ask(seed=7, n=2, candidates=3, partial_images=2,
                                                          return_scores=True), timeout=60))
        progress = [chunk.progress for chunk in chunks[:-1]]
        finished = chunks[-1].finished
        painting = [one for one in progress if one.stage == 1]
        self.assertEqual(sorted((one.picture, one.done) for one in painting),
                         [(picture, rows * 4) for picture in range(3) for rows in (1, 2, 3, 4)])
        self.assertEqual({one.total for one in painting}, {16})
        self.assertEqual(sum(bool(one.partial_image) for one in painting), 4)
        self.assertEqual([one.stage for one in progress][-1], 2)
        self.assertEqual(len(finished.images), 2)
        self.assertGreaterEqual(finished.images[0].score, finished.images[1].score)
        self.assertEqual((finished.size, finished.output_format, finished.seed), ("32x32", "png", 7))
        # The same as over REST.
        self.assertEqual(self.pictures(seed=finished.images[0].seed), [finished.images[0].image])

    def test_magnify(self):
        chunks = list(self.call("GenerateImage", self.ask(model="slow", size="512x512", seed=6), timeout=120))
        magnified = [chunk.progress for chunk in chunks[:-1] if chunk.progress.stage == 3]
        self.assertEqual(len(magnified), 9)
        self.assertEqual((magnified[-1].done, magnified[-1].total), (4096, 4096))
        self.assertEqual(png_size(chunks[-1].finished.images[0].image), (512, 512))

    def test_edit_and_caption(self):
        request = self.message("qianyi.v1.EditImageRequest", picture=self.ask(seed=3),
                               image=gradient(32), mask=hole(32))
        finished = list(self.call("EditImage", request, timeout=60))[-1].finished
        self.assertEqual([one.image for one in finished.images], self.pictures(seed=3))
        answer = self.call("CaptionImage", self.message(
            "qianyi.v1.CaptionImageRequest", image=finished.images[0].image), timeout=60)
        over_rest = self.server.post(CAPTION, {"image": b64(finished.images[0].image)})[1]
        self.assertEqual(answer.text, over_rest["data"][0]["text"])
        self.assertEqual(answer.usage.image_tokens, 16)

    def test_errors(self):
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        for fields, code, word in (
                ({"n": -1}, invalid, "n is -1"), ({"size": "0"}, invalid, "size is 0"),
                ({"size": "100000"}, invalid, "100000"), ({"style": "水彩"}, invalid, "国画"),
                ({"prompt": "猫" * 3000}, invalid, "shorten"), ({"prompt": ""}, invalid, "empty"),
                ({"candidates": 10**12}, invalid, "candidates"), ({"seed": -1}, invalid, "seed"),
                ({"output_format": "gif"}, invalid, "png"), ({"top_p": 0.0}, invalid, "top_p"),
                ({"model": "other"}, grpc.StatusCode.NOT_FOUND, "other"),
                ({"model": "poet"}, invalid, "poet")):
            with self.assertRaises(grpc.RpcError) as caught:
                list(self.call("GenerateImage", self.ask(**fields)))
            self.assertEqual(caught.exception.code(), code, fields)
            self.assertIn(word, caught.exception.details())
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.call("EditImage", self.message("qianyi.v1.EditImageRequest", picture=self.ask(),
                                                     image=gradient(32), mask=hole(8))))
        self.assertIn("8x8", caught.exception.details())
        with self.assertRaises(grpc.RpcError) as caught:
            self.call("CaptionImage", self.message("qianyi.v1.CaptionImageRequest", image=b"x"))
        self.assertEqual(caught.exception.code(), invalid)

    def test_cancel_and_deadline_stop_the_work(self):
        before = self.server.metric("qianyi_generated_tokens_total")
        slow = self.ask(model="slow", n=8)
        stream = self.call("GenerateImage", slow)
        next(stream)
        stream.cancel()
        self.server.wait_until_idle()
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.call("GenerateImage", slow, timeout=0.05))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.server.wait_until_idle()
        self.assertLess(self.server.metric("qianyi_generated_tokens_total") - before, 2 * 8 * 1024)
        self.assertEqual(len(self.pictures()), 1)


if __name__ == "__main__":
    unittest.main()
