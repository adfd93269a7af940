// Cancels a call before the server has given it a number; ends when the server has been told.
const [address, picture] = process.argv.slice(2);
const real = globalThis.fetch;
const told = new Promise((resolve) => {
  globalThis.fetch = async (where, how) => {
    const path = new URL(where?.url ?? where).pathname;
    if (path.endsWith("/queue/join")) setTimeout(() => controller.abort());
    const answer = await real(where, how);
    if (path.endsWith("/queue/join")) await new Promise((later) => setTimeout(later, 300));
    if (path.endsWith("/cancel")) resolve();
    return answer;
  };
});
const controller = new AbortController();
const { Server } = await import("../../../sam_hf/ui/static/server.js");
const asked = { image: { picture }, points_per_side: 64 };
const call = new Server(address).call("/everything", asked, { signal: controller.signal });
const failure = await call.then(() => null, (error) => error);
if (failure?.kind !== "cancelled") throw failure ?? new Error("not cancelled");
await told;
process.exit(0);
