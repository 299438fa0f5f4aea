// Search in pages that are opened as files. A browser starts no worker from a file, so the worker's script runs in a hidden
// frame here. On a server nothing is changed.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      // What the script posts comes out of this object as a message.
      frame.answer = data => this.dispatchEvent(new MessageEvent("message", { data }))
      frame.srcdoc = `<script>postMessage = data => frameElement.answer(data)</script><script src="${address}"></script>`
      this.loaded = new Promise(resolve => frame.addEventListener("load", () => resolve(frame.contentWindow)))
      const append = () => document.body.append(frame)
      document.body ? append() : addEventListener("DOMContentLoaded", append)
    }
    postMessage(data) {
      this.loaded.then(inside => inside.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {}
  }
  window.Worker = window.IFrameWorker
}
