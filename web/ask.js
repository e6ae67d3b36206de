// The page's behaviour. All text from the user and from the model becomes text nodes (textContent), never markup.
"use strict";

const at = (id) => document.getElementById(id);
let tasks = [];

function element(name, text, className) {
  const node = document.createElement(name);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

function fillSelect(select, labels) {
  select.replaceChildren(...labels.map((label) => element("option", label)));
}

function pickedExample() {
  return tasks[at("task").selectedIndex].examples[at("example").selectedIndex];
}

function showExample() {
  const example = pickedExample();
  at("story").value = example.story.join("\n");
  at("question").value = example.question;
  at("result").hidden = at("error").hidden = true;
}

function showExamplesOfTask() {
  fillSelect(at("example"), tasks[at("task").selectedIndex].examples.map((_, number) => String(number + 1)));
  showExample();
}

function showError(sentence) {
  at("error").textContent = sentence;
  at("error").hidden = false;
  at("result").hidden = true;
}

// The file's answer, if story and question are still those of the example.
function truth() {
  const example = tasks.length ? pickedExample() : null;
  const unchanged = example && at("story").value === example.story.join("\n") && at("question").value === example.question;
  return unchanged ? example.truth : null;
}

function row(label, attention, className) {
  const tableRow = element("tr", "", className);
  const head = element("th", label);
  head.scope = "row";
  tableRow.append(head);
  for (const weight of attention) {
    const cell = element("td", weight.toFixed(2));
    cell.style.setProperty("--share", weight);
    tableRow.append(cell);
  }
  return tableRow;
}

function showAnswer(result) {
  at("answer").textContent = result.answer;
  const expected = truth();
  at("truth").hidden = !expected;
  if (expected) at("truth").textContent = expected === result.answer ? "Right." : `Wrong: the file's answer is ${expected}.`;
  at("top").replaceChildren(...result.top.map(({ word, probability }) => {
    const item = element("li", "");
    const bar = element("i", "");
    bar.style.setProperty("--share", probability);
    item.append(element("span", word), element("span", probability.toFixed(2)), bar);
    return item;
  }));
  at("remarks").replaceChildren(...result.remarks.map((sentence) => element("li", sentence)));
  const heads = ["Memory, oldest first", ...result.empty.map((_, hop) => `hop ${hop + 1}`)];
  at("hops").replaceChildren(...heads.map((label) => element("th", label)));
  at("memory").replaceChildren(
    ...result.memory.map(({ statement, attention }) => row(statement, attention)),
    row("(empty slots)", result.empty, "empty"),
  );
  at("error").hidden = true;
  at("result").hidden = false;
}

async function ask(event) {
  event.preventDefault();
  at("ask").disabled = true;
  try {
    const response = await fetch("answer", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ story: at("story").value, question: at("question").value }),
    });
    const result = await response.json();
    if (response.ok) showAnswer(result);
    else showError(result.error);
  } catch {
    showError("The server does not respond. Is ask.py still running?");
  } finally {
    at("ask").disabled = false;
  }
}

async function start() {
  at("form").addEventListener("submit", ask);
  at("task").addEventListener("change", showExamplesOfTask);
  at("example").addEventListener("change", showExample);
  tasks = (await (await fetch("examples")).json()).tasks;
  fillSelect(at("task"), tasks.map(({ number, name }) => `${number} ${name}`));
  showExamplesOfTask();
}

start();
