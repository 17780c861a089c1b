// Where on our server each of fal's hosts has its counterpart.
const places = { "queue.fal.run": "queue", "fal.run": "run", "rest.fal.ai": "rest" };

export function redirected(address, base) {
  const url = new URL(address);
  const place = places[url.host];
  return place ? `${base}/${place}${url.pathname}${url.search}` : address;
}
