/*
 * Configuration of OHIF 3.13 for a node's DICOMweb (docs/dicomweb.md): its `dist` folder, this file
 * in place of its app-config.js, and /dicom-web behind the same origin.
 *
 * OHIF draws a segmentation only where it has a plane. A radiograph and its SEG have none: the SEG
 * refers to the image pixel by pixel (PS3.3 A.51.5.1). For the radiograph OHIF assumes the plane
 * of the screen; `planeOfProjections` has it assume the same for the SEG. That is said in the
 * memory of the viewer alone: no stored or sent object has an invented plane.
 */
const planeOfProjections = {
  id: 'dicom-node.plane-of-projections',
  preRegistration: ({ servicesManager }) => {
    const { displaySetService } = servicesManager.services;
    const { unsubscribe } = displaySetService.subscribe(
      displaySetService.EVENTS.DISPLAY_SETS_ADDED,
      ({ displaySetsAdded }) =>
        displaySetsAdded
          .filter(each => each.Modality === 'SEG' && each.instance)
          .forEach(each => {
            const { instance } = each;
            const [shared] = [instance.SharedFunctionalGroupsSequence ?? []].flat();
            if (instance.FrameOfReferenceUID || !shared || shared.PlaneOrientationSequence) {
              return;
            }
            shared.PlaneOrientationSequence = { ImageOrientationPatient: [1, 0, 0, 0, 1, 0] };
            shared.PixelMeasuresSequence ??= {}; // must be there; what is in it is not used
          })
    );
    return unsubscribe;
  },
};

window.config = {
  routerBasename: null,
  extensions: [planeOfProjections],
  modes: [],
  showStudyList: true,
  // The text of its first dialogue: research use only, not a medical device.
  investigationalUseDialog: { option: 'always' },
  defaultDataSourceName: 'node',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'node',
      configuration: {
        friendlyName: 'DICOM node',
        name: 'node',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        qidoSupportsIncludeField: true,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        omitQuotationForMultipartRequest: true,
        singlepart: 'bulkdata,pdf',
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
