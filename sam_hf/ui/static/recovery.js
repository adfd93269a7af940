/** What the page does when the server is gone for a while, or has let go of the picture that is open. */
import { embed, sent } from "./picture_loading.js";
import { ServerError } from "./server.js";

const PAUSES = [1, 2, 3, 5, 10]; // seconds between looking for the server; the last one again and again

export class Recovery {
  /** @param page see canvas.js */
  constructor(page) {
    this.page = page;
    this.looking = false;
    this.again = null; // what failed last
    this.sending = new Map(); // picture -> promise of what the server calls it now
  }

  /** Looks for the server until it is there, then does once more what failed, unless its message is gone. */
  async waitForServer(again) {
    this.again = again;
    if (this.looking) return;
    this.looking = true;
    const { page } = this;
    for (let turn = 0; ; turn++) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * PAUSES[Math.min(turn, PAUSES.length - 1)]));
      if (!page.element.isConnected) return;
      if (await page.server.isThere()) break;
    }
    this.looking = false;
    page.app.say("The server is back.");
    if (page.part("message").hidden || page.retry !== this.again) return;
    page.dismiss();
    page.retry?.();
  }

  /**
   * Sends the picture of answers again; gives what the server calls it now. Asked by several at once, it is sent once;
   * one that is not open any more is not sent.
   */
  sendAgain({ picture, checkpoint }) {
    if (!this.sending.has(picture)) {
      const sending = this.send(picture, checkpoint).finally(() => this.sending.delete(picture));
      this.sending.set(picture, sending);
    }
    return this.sending.get(picture);
  }

  async send(open, checkpoint) {
    const { page } = this;
    const { ticket } = page;
    if (page.lastAnswers?.picture !== open) throw new ServerError("Cancelled.", "cancelled");
    const { signal } = ticket;
    const busy = (words, share) => page.ticket === ticket && page.busy(words, share);
    busy("Opening the picture again");
    const image = await sent(page.server, open.origin, { signal, busy });
    const { picture } = await embed((how) => page.server.stream("/embed", { image, checkpoint }, how), { signal, busy });
    if (page.ticket === ticket) page.busy(null);
    return picture;
  }
}
