"use strict";
const MOST = 200;
const documents = JSON.parse(document.getElementById("documents").textContent);
const haystacks = documents.map((entry) => `${entry.url} ${entry.language} ${entry.text}`.toLowerCase());
const box = document.getElementById("words"), list = document.getElementById("found"), number = document.getElementById("number");

function item(entry) {
  const line = document.createElement("li"), link = document.createElement("a"), note = document.createElement("small"), address = document.createElement("bdi");
  link.href = `page-${String(entry.page).padStart(4, "0")}.html#${entry.id}`;
  link.textContent = entry.title;
  address.textContent = entry.url;
  note.append(address, ` · ${entry.images} image${entry.images === 1 ? "" : "s"}${entry.language ? ` · ${entry.language}` : ""}`);
  line.append(link, note);
  return line;
}

function search() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = documents.filter((entry, place) => words.every((word) => haystacks[place].includes(word)));
  const shown = found.slice(0, words.length ? MOST : 50);
  list.replaceChildren(...shown.map(item));
  number.textContent = words.length ? `${found.length} found${found.length > shown.length ? `, the first ${shown.length}` : ""}` : "";
}

box.addEventListener("input", search);
if (location.hash.length > 1) { box.value = decodeURIComponent(location.hash.slice(1)); search(); }
