// The word that closes a stream comes late, as on a busy machine: calls made before it must get their answers.
const [address] = process.argv.slice(2);
const real = globalThis.fetch;
globalThis.fetch = async (where, how) => {
  const answer = await real(where, how);
  if (!String(where?.url ?? where).includes("/queue/data")) return answer;
  const hold = async (chunk, out) => {
    if (new TextDecoder().decode(chunk).includes("close_stream")) await new Promise((resolve) => setTimeout(resolve, 100));
    out.enqueue(chunk);
  };
  return new Response(answer.body.pipeThrough(new TransformStream({ transform: hold })), answer);
};
const { Server } = await import("../../../sam_hf/ui/static/server.js");
const server = new Server(address);
for (let number = 0; number < 8; number++) await server.call("/phrase", { text: `cup ${number}` }, { seconds: 20 });
process.exit(0);
