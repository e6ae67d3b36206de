// The page's behaviour. All text of the person and of the model becomes text nodes (textContent), never markup.
"use strict";

const at = (id) => document.getElementById(id);
let tasks = [];

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
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

// The file's answer, as long as story and question are still those of the example.
function truth() {
  const example = tasks.length ? pickedExample() : null;
  const same = example && at("story").value === example.story.join("\n") && at("question").value === example.question;
  return same ? example.truth : null;
}

function row(label, attention, className) {
  const made = element("tr", "", className);
  const head = element("th", label);
  head.scope = "row";
  made.append(head);
  for (const weight of attention) {
    const cell = element("td", weight.toFixed(2), weight > 0.7 ? "dark" : "");
    cell.style.setProperty("--share", weight);
    made.append(cell);
  }
  return made;
}

function showAnswer(found) {
  at("answer").textContent = found.answer;
  const right = truth();
  at("truth").hidden = !right;
  if (right) at("truth").textContent = right === found.answer ? "Right." : `Wrong: the file's answer is ${right}.`;
  at("top").replaceChildren(...found.top.map(({ word, probability }) => {
    const line = element("li", "");
    const bar = element("i", "");
    bar.style.setProperty("--share", probability);
    line.append(element("span", word), element("span", probability.toFixed(2)), bar);
    return line;
  }));
  at("remarks").replaceChildren(...found.remarks.map((sentence) => element("li", sentence)));
  const heads = ["Memory, oldest first", ...found.empty.map((_, hop) => `hop ${hop + 1}`)];
  at("hops").replaceChildren(...heads.map((label) => element("th", label)));
  at("memory").replaceChildren(
    ...found.memory.map(({ statement, attention }) => row(statement, attention)),
    row("(empty slots)", found.empty, "empty"),
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
    const found = await response.json();
    if (response.ok) showAnswer(found);
    else showError(found.error);
  } catch {
    showError("The server does not answer; is ask.py still running?");
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
