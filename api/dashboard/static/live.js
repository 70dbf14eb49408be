// What htmx leaves to its pages: it tries a stream again once it has begun, but not one whose first connection
// failed; a tab that is opened in the background needs none yet (a browser has six to a host over HTTP/1.1);
// and somebody has to be told when the service cannot be reached.

const RETRY = 3000; // ms
const stream = document.querySelector("[hx-sse\\:connect]");
let connected = false;

function say(text) {
  const notice = document.getElementById("notice");
  notice.replaceChildren();
  if (!text) return;
  const box = notice.appendChild(document.createElement("div"));
  box.className = "notice bad";
  box.textContent = text;
}

function tryAgain() {
  if (stream && !connected && !document.hidden) document.dispatchEvent(new Event("again"));
}

document.addEventListener("htmx:before:request", (event) => {
  if (event.target === stream && document.hidden) event.preventDefault();
});
document.addEventListener("htmx:sse:after:connection", () => { connected = true; say(""); });
document.addEventListener("htmx:sse:error", (event) => {
  if ([401, 404].includes(event.detail.status)) location.reload(); // signed out, or gone: the page says which
  else say("The service cannot be reached at present. This page goes on by itself when it can.");
});
document.addEventListener("htmx:error", (event) => {
  if (event.target !== stream) say("The service could not be reached, and nothing was done. Try again.");
});
document.addEventListener("visibilitychange", tryAgain);
setInterval(tryAgain, RETRY);
