// A picture that the server has let go of is sent again: the one that was asked about, once, and only while it is open.
import assert from "node:assert/strict";
import test from "node:test";
import { Recovery } from "../../../sam_hf/ui/static/recovery.js";

/** A page with one picture open, and what its server was sent. */
function begin() {
  const sent = [];
  const server = {
    async upload(file) {
      sent.push(file);
      return { path: file };
    },
    async *stream(endpoint, { image, checkpoint }) {
      yield { stage: "ready", picture: `${image.path} for ${checkpoint}` };
    },
  };
  const page = { server, ticket: new AbortController(), busy() {}, lastAnswers: null, origin: null };
  const open = (origin) => {
    page.lastAnswers = { picture: { origin }, checkpoint: "tiny" };
    page.ticket = new AbortController();
    return page.lastAnswers;
  };
  return { recovery: new Recovery(page), open, sent };
}

test("asked by several at once, it is sent once", async () => {
  const { recovery, open, sent } = begin();
  const answers = open("cat.png");
  const names = await Promise.all([recovery.sendAgain(answers), recovery.sendAgain(answers)]);
  assert.deepEqual([names, sent], [["cat.png for tiny", "cat.png for tiny"], ["cat.png"]]);
  await recovery.sendAgain(answers);
  assert.equal(sent.length, 2); // let go of once more
});

test("a picture that is not open any more is neither sent nor taken for the one that is", async () => {
  const { recovery, open, sent } = begin();
  const old = open("cat.png");
  const now = open("dog.png");
  await assert.rejects(recovery.sendAgain(old), { kind: "cancelled" });
  assert.equal(await recovery.sendAgain(now), "dog.png for tiny");
  assert.deepEqual(sent, ["dog.png"]);
});

test("what failed is done again when the server is back, and nothing else that a message offers meanwhile", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  for (const isReplaced of [false, true]) {
    const done = [];
    const [failed, other] = ["failed", "other"].map((name) => () => void done.push(name));
    const message = { hidden: false };
    const page = { element: { isConnected: true }, server: { isThere: async () => true }, app: { say() {} }, part: () => message, dismiss() {} };
    page.retry = failed;
    const waiting = new Recovery(page).waitForServer(failed);
    if (isReplaced) page.retry = other;
    context.mock.timers.tick(1000);
    await waiting;
    assert.deepEqual(done, isReplaced ? [] : ["failed"]);
  }
});
