// Typesets formulas and sorts tables. `document$` is the theme's: it fires at each page that is shown.

function typeset() {
  for (const element of document.querySelectorAll(".arithmatex")) {
    if (element.querySelector(".katex")) continue
    const text = element.textContent.trim() // \(...\) or \[...\]
    katex.render(text.slice(2, -2), element, { displayMode: text.startsWith("\\["), throwOnError: false })
  }
}

function key(row, column) {
  const text = row.cells[column].textContent.trim()
  const number = parseFloat(text.replaceAll(",", ""))
  return Number.isNaN(number) ? text.toLowerCase() : number
}

function compare(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0
  return typeof a === "number" ? -1 : 1
}

function sortable() {
  for (const header of document.querySelectorAll(".sortable th")) {
    header.tabIndex = 0
    header.title = "Sort"
    const sort = () => {
      const up = header.getAttribute("aria-sort") !== "ascending"
      for (const other of header.parentElement.children) other.removeAttribute("aria-sort")
      header.setAttribute("aria-sort", up ? "ascending" : "descending")
      const body = header.closest("table").tBodies[0]
      const rows = [...body.rows].map((row) => [key(row, header.cellIndex), row])
      rows.sort(([a], [b]) => (up ? compare(a, b) : compare(b, a)))
      body.append(...rows.map(([, row]) => row))
    }
    header.onclick = sort
    header.onkeydown = (event) => event.key === "Enter" && sort()
  }
}

document$.subscribe(() => {
  typeset()
  sortable()
})
