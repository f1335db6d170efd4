// A JupyterLab extension of one file: when the page opens, the cells of its notebook run, unless they hold outputs already.
const run = async app => {
  const soon = () => new Promise(go => setTimeout(go, 100))
  while (!app.shell.currentWidget?.sessionContext) await soon()
  const {content, context, sessionContext} = app.shell.currentWidget
  await context.ready
  await sessionContext.ready
  if (content.widgets.some(cell => cell.model.outputs?.length)) return
  await app.commands.execute('notebook:run-all-cells')
  await context.save()
}
const plugin = {id: 'toa-nb:run-all', autoStart: true, activate: app => { app.restored.then(() => run(app)) }}
window._JUPYTERLAB = window._JUPYTERLAB || {}
window._JUPYTERLAB['toa-nb'] = {init: () => {}, get: async () => () => ({default: plugin, __esModule: true})}
